//! What the documentation of public items has to say: of each number what it counts or names, and of what others
//! defined, where.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

#[expect(dead_code, reason = "the other tests read more of it")]
mod workspace;

use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, Fields, FnArg, GenericArgument, ImplItem, Item, Lit, Meta, PathArguments, ReturnType};
use syn::{Signature, TraitItem, Type, Visibility};

use workspace::{packages, root};

/// Units of quantities, in the singular.
const UNITS: &str = "\
    bit byte kib mib gib bit/s nanosecond ns microsecond us millisecond ms second minute day percent share ratio \
    factor unit mtu hop ttl line column often round step niceness";
/// What is counted. A field or constant says so in its first words.
const COUNTED: &str = "\
    frame packet datagram segment fragment copy copies drop probe echo mac vtep vni node pod port row entries queue \
    worker thread processor connection stream sample request answer question tag header call revision lease address \
    addresses flow group neighbour descriptor device key member refusal route rule interrupt event endpoint";
/// What else a number stands for.
const CODES: &str = "\
    index ifindex errno flag mask hash seed generation incarnation ethertype rfc ieee iana id inode cookie uid gid \
    mode version dscp ecn protocol checksum signal vlan prefix random priority";
/// In so many words a field or constant comes to what it counts.
const FIRST_WORDS: usize = 5;

const NUMBERS: &str = "u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64";

/// Where formats and numbers of others are written down, by folder.
const OF_OTHERS: [&str; 2] = ["encap/src", "switch/src/sys"];
/// What names a source: a standard, a kernel's file or manual page.
const SOURCES: [&str; 9] = ["RFC ", "IEEE ", "IANA", "draft-", "include/", "net/", "drivers/", "(2)", "(7)"];
/// Files there that have nothing of others, or whose parent module names it.
const OUR_OWN: [&str; 8] = [
    "encap/src/bytes.rs",
    "encap/src/lib.rs",
    "encap/src/merge/candidate.rs",
    "encap/src/merge/expected.rs",
    "encap/src/merge/flows.rs",
    "encap/src/search/hunt.rs",
    "switch/src/sys/iovec.rs",
    "switch/src/sys/mod.rs",
];

/// A number in a public item.
struct Number {
    /// File and name.
    place: String,
    told: String,
    /// Of a function, whose documentation says more than what a number is.
    function: bool,
}

#[derive(Default)]
struct Walk {
    path: String,
    found: Vec<Number>,
}

fn told(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc"));
    let texts = lines.filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value() + "\n"),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    texts.collect()
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_test(attribute: &Attribute) -> bool {
    matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string() == "test")
}

/// Whether there is a bare number in it. Types of ours and durations carry their unit; bytes in a row are no number.
fn has_number(of: &Type) -> bool {
    let in_a_row =
        |element: &Type| !matches!(element, Type::Path(path) if path.path.is_ident("u8")) && has_number(element);
    match of {
        Type::Path(path) => path.path.segments.iter().any(|segment| {
            let inside = match &segment.arguments {
                PathArguments::AngleBracketed(list) => list.args.iter().any(|argument| match argument {
                    GenericArgument::Type(argument) if segment.ident == "Vec" => in_a_row(argument),
                    GenericArgument::Type(argument) => has_number(argument),
                    _ => false,
                }),
                PathArguments::None | PathArguments::Parenthesized(_) => false,
            };
            inside || NUMBERS.split(' ').any(|number| segment.ident == number)
        }),
        Type::Tuple(tuple) => tuple.elems.iter().any(has_number),
        Type::Reference(reference) => has_number(&reference.elem),
        Type::Array(array) => in_a_row(&array.elem),
        Type::Slice(slice) => in_a_row(&slice.elem),
        _ => false,
    }
}

impl Walk {
    fn add(&mut self, name: &str, told: String) {
        self.found.push(Number { place: format!("{}: {name}", self.path), told, function: false });
    }

    fn function(&mut self, owner: &str, signature: &Signature, attributes: &[Attribute]) {
        let takes = |argument: &FnArg| matches!(argument, FnArg::Typed(typed) if has_number(&typed.ty));
        let gives = matches!(&signature.output, ReturnType::Type(_, of) if has_number(of));
        if gives || signature.inputs.iter().any(takes) {
            let place = format!("{}: {owner}{}()", self.path, signature.ident);
            self.found.push(Number { place, told: told(attributes), function: true });
        }
    }

    /// `above` is what is said of all of them together, where they have no names.
    fn fields(&mut self, owner: &str, fields: &Fields, in_enum: bool, above: &str) {
        for (index, field) in fields.iter().enumerate() {
            if (in_enum || is_public(&field.vis)) && has_number(&field.ty) {
                match &field.ident {
                    Some(name) => self.add(&format!("{owner}.{name}"), told(&field.attrs)),
                    None => self.add(&format!("{owner}.{index}"), told(&field.attrs) + above),
                }
            }
        }
    }

    fn items(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Const(item) if is_public(&item.vis) && has_number(&item.ty) => {
                    self.add(&item.ident.to_string(), told(&item.attrs));
                }
                Item::Type(item) if is_public(&item.vis) && has_number(&item.ty) => {
                    self.add(&item.ident.to_string(), told(&item.attrs));
                }
                Item::Fn(item) if is_public(&item.vis) => self.function("", &item.sig, &item.attrs),
                Item::Struct(item) if is_public(&item.vis) => {
                    self.fields(&item.ident.to_string(), &item.fields, false, &told(&item.attrs));
                }
                Item::Enum(item) if is_public(&item.vis) => {
                    for variant in &item.variants {
                        let name = format!("{}::{}", item.ident, variant.ident);
                        self.fields(&name, &variant.fields, true, &told(&variant.attrs));
                    }
                }
                Item::Trait(item) if is_public(&item.vis) => {
                    for inner in &item.items {
                        if let TraitItem::Fn(function) = inner {
                            self.function(&format!("{}::", item.ident), &function.sig, &function.attrs);
                        }
                    }
                }
                Item::Impl(item) if item.trait_.is_none() => self.methods(&item.self_ty, &item.items),
                Item::Mod(item) if !item.attrs.iter().any(is_test) => {
                    self.items(item.content.as_ref().map_or(&[], |(_, items)| items));
                }
                _ => {}
            }
        }
    }

    fn methods(&mut self, of: &Type, items: &[ImplItem]) {
        let owner = match of {
            Type::Path(path) => format!("{}::", path.path.segments.last().unwrap().ident),
            _ => String::new(),
        };
        for item in items {
            match item {
                ImplItem::Fn(function) if is_public(&function.vis) => {
                    self.function(&owner, &function.sig, &function.attrs);
                }
                ImplItem::Const(constant) if is_public(&constant.vis) && has_number(&constant.ty) => {
                    self.add(&format!("{owner}{}", constant.ident), told(&constant.attrs));
                }
                _ => {}
            }
        }
    }
}

/// The sources below a folder, but for tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether it is said what a number counts or names. Where something lies is a length, and needs its unit.
fn is_told(number: &Number) -> bool {
    let told = number.told.to_lowercase();
    let words = told.split(|letter: char| !letter.is_alphanumeric() && letter != '/').filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let first = if number.function { &words[..] } else { &words[..words.len().min(FIRST_WORDS)] };
    let has = |words: &[&str], list: &str| {
        list.split(' ').any(|one| words.iter().any(|word| *word == one || word.strip_suffix('s') == Some(one)))
    };
    let is_place = !number.function && words.first() == Some(&"where");
    has(&words, UNITS) || !is_place && (has(&words, CODES) || has(first, COUNTED))
}

#[test]
fn every_number_says_what_it_counts_or_names() {
    let mut walk = Walk::default();
    for package in packages() {
        for path in sources(&package.directory.join("src")) {
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            walk.path = path.strip_prefix(root()).unwrap().display().to_string();
            walk.items(&file.items);
        }
    }
    assert!(walk.found.len() > 700, "the walk found {} numbers", walk.found.len());
    let silent: Vec<_> = walk.found.iter().filter(|number| !is_told(number)).collect();
    let list: String = silent.iter().map(|number| format!("{}: {}\n", number.place, number.told.trim())).collect();
    assert!(silent.is_empty(), "say in which unit, of what, or which code it is:\n{list}");
}

#[test]
fn the_rule_itself_tells_good_from_bad() {
    let is_told = |told: &str, function| is_told(&Number { place: String::new(), told: told.to_owned(), function });
    for good in ["Frames that left here.", "Where it starts, in bytes.", "How many VTEPs there are.", "Its process id."]
    {
        assert!(is_told(good, false), "{good}");
    }
    for bad in
        ["", "How many.", "The number.", "Where the header starts.", "What is left of the way that its frame has."]
    {
        assert!(!is_told(bad, false), "{bad}");
    }
    assert!(is_told("What is left of the way that its frame has.", true));
}

fn names_a_source(attributes: &[Attribute]) -> bool {
    let told = told(attributes);
    SOURCES.iter().any(|source| told.contains(source))
}

/// The public items of a module that name no source, where neither the module nor their type does.
fn without_source(items: &[Item]) -> Vec<String> {
    fn of(item: &Item) -> Option<(&Visibility, &syn::Ident, &[Attribute])> {
        match item {
            Item::Const(item) => Some((&item.vis, &item.ident, &item.attrs)),
            Item::Type(item) => Some((&item.vis, &item.ident, &item.attrs)),
            Item::Fn(item) => Some((&item.vis, &item.sig.ident, &item.attrs)),
            Item::Struct(item) => Some((&item.vis, &item.ident, &item.attrs)),
            Item::Enum(item) => Some((&item.vis, &item.ident, &item.attrs)),
            _ => None,
        }
    }
    let public = items.iter().filter_map(of).filter(|(visibility, ..)| is_public(visibility));
    public.filter(|(.., attributes)| !names_a_source(attributes)).map(|(_, name, _)| name.to_string()).collect()
}

#[test]
fn what_others_defined_names_them() {
    let mut silent = Vec::new();
    for path in OF_OTHERS.iter().flat_map(|folder| sources(&root().join(folder))) {
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        let ours = OUR_OWN.contains(&path.as_str());
        assert!(!ours || !names_a_source(&file.attrs), "{path} names a source, and is listed as having none");
        if !ours && !names_a_source(&file.attrs) {
            silent.extend(without_source(&file.items).into_iter().map(|name| format!("{path}: {name}\n")));
        }
    }
    assert!(silent.is_empty(), "name the standard or the kernel's file, or list the file:\n{}", silent.concat());
}

#[test]
fn every_crate_asks_for_documentation() {
    let lints = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(lints.contains("\nmissing_docs = \"warn\"\n"), "the workspace's lints do not ask for documentation");
    for package in packages() {
        let manifest = fs::read_to_string(package.directory.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} has lints of its own", package.name);
    }
}
