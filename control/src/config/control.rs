use std::path::{Path, PathBuf};

use toml::Spanned;
use weft_encap::Encapsulation;
use weft_store::client::{Access, ClientTls, User};

use super::check::{Wrong, not_allowed, wrong};
use super::file::Control;

/// A store, and as whom it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// Its endpoints.
    pub stores: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// How others are to send to this node.
    pub encapsulation: Encapsulation,
    /// Who signed its certificate.
    pub ca_file: Option<PathBuf>,
    /// The name in its certificate, where it is not the one by which it is asked.
    pub server_name: Option<String>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Our name, and where the password is.
    pub user: Option<(String, PathBuf)>,
}

/// A file that the configuration names, and that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}: `[control]` names it", path.display())]
pub struct FileError {
    path: PathBuf,
    source: std::io::Error,
}

impl ControlConfig {
    /// Reads the files that it names.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn access(&self) -> Result<Access, FileError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| FileError { path: path.to_owned(), source });
        let identity = match &self.identity {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        };
        let tls = self.ca_file.as_deref().map(read).transpose()?.map(|ca| {
            let server_name = self.server_name.clone();
            ClientTls { ca, identity, server_name }
        });
        let user = match &self.user {
            None => None,
            Some((name, path)) => {
                let text = String::from_utf8_lossy(&read(path)?).into_owned();
                let password = text.lines().next().unwrap_or_default().to_owned();
                Some(User { name: name.clone(), password })
            }
        };
        Ok(Access { endpoints: self.stores.clone(), tls, user })
    }
}

pub(super) fn check(file: Control) -> Result<ControlConfig, Wrong> {
    let Control { stores, prefix, encapsulation, ca_file, server_name, cert_file, key_file, user, password_file } =
        file;
    if stores.as_ref().is_empty() {
        return not_allowed(&stores, ("control", "stores"), "is empty");
    }
    for store in stores.as_ref() {
        let secured = store.starts_with("https://");
        if !secured && !store.starts_with("http://") {
            return not_allowed(&stores, ("control", "stores"), format!("has `{store}`"));
        } else if secured && ca_file.is_none() {
            return wrong(&stores, format!("`stores` has {store}: for https:, `ca_file` is needed too"));
        } else if !secured && ca_file.is_some() {
            return wrong(
                &stores,
                format!("`stores` has {store}, and there is a `ca_file`: write https:, or leave it out"),
            );
        }
    }
    let path = prefix.as_ref();
    if !path.starts_with('/') || path.ends_with('/') || path.chars().any(char::is_whitespace) {
        return not_allowed(&prefix, ("control", "prefix"), format!("is `{path}`"));
    }
    let files = [("ca_file", &ca_file), ("cert_file", &cert_file), ("key_file", &key_file)];
    for (field, path) in files.into_iter().chain([("password_file", &password_file)]) {
        if let Some(path) = path
            && !path.as_ref().is_absolute()
        {
            return not_allowed(path, ("control", field), format!("is `{}`", path.as_ref().display()));
        }
    }
    if let (None, Some(cert)) = (&ca_file, &cert_file) {
        return wrong(cert, "`cert_file` goes with https: and a `ca_file`");
    }
    if let (None, Some(name)) = (&ca_file, &server_name) {
        return wrong(name, "`server_name` goes with https: and a `ca_file`");
    }
    let identity = both(("cert_file", cert_file), ("key_file", key_file))?;
    let user = both(("user", user), ("password_file", password_file))?;
    Ok(ControlConfig {
        stores: stores.into_inner(),
        prefix: prefix.into_inner(),
        encapsulation,
        ca_file: ca_file.map(Spanned::into_inner),
        server_name: server_name.map(Spanned::into_inner),
        identity,
        user,
    })
}

/// Two fields that need each other.
fn both<A, B>(
    (first, a): (&str, Option<Spanned<A>>),
    (second, b): (&str, Option<Spanned<B>>),
) -> Result<Option<(A, B)>, Wrong> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a.into_inner(), b.into_inner()))),
        (None, None) => Ok(None),
        (Some(a), None) => wrong(&a, format!("`{first}` needs a `{second}` too")),
        (None, Some(b)) => wrong(&b, format!("`{second}` needs a `{first}` too")),
    }
}
