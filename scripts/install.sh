#!/usr/bin/env bash
# Puts in place what was built, or takes away again what was put there: install.sh install BUILT, install.sh uninstall
# PREFIX is where it will run from, DESTDIR what stands before that for now.
set -euo pipefail
cd "$(dirname "$0")/.."

verb=${1:?install or uninstall}
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
# Every file that was installed, and with a slash behind it every directory that was not there before, parents first.
record=$prefix/share/weft/installed

installed=()

directory() { # path
    if [ ! -d "$root$1" ]; then
        [ "$1" = / ] || directory "$(dirname "$1")"
        mkdir "$root$1"
        installed+=("$1/")
    fi
}

put() { # mode, path: the file's bytes come on stdin
    directory "$(dirname "$2")"
    # Not into the file that is there: it may be running.
    cat >"$root$2.new"
    chmod "$1" "$root$2.new"
    mv -f "$root$2.new" "$root$2"
    installed+=("$2")
}

recorded() {
    if [ -e "$root$record" ]; then cat "$root$record"; fi
}

case $verb in
install)
    built=${2:?the directory with the programs}
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/pages"
    "$built/weft" man "$work/pages" >/dev/null
    for service in weft-agent.service weft-store.service; do
        sed "s|@BINDIR@|$prefix/bin|" "deploy/systemd/$service" >"$work/$service"
    done
    for shell in bash zsh fish; do
        "$built/weft" completions "$shell" >"$work/$shell"
    done

    for program in weft weft-cni; do
        put 755 "$prefix/bin/$program" <"$built/$program"
    done
    for service in weft-agent.service weft-store.service; do
        put 644 "$prefix/lib/systemd/system/$service" <"$work/$service"
    done
    for page in "$work"/pages/*; do
        put 644 "$prefix/share/man/man1/$(basename "$page")" <"$page"
    done
    put 644 "$prefix/share/bash-completion/completions/weft" <"$work/bash"
    put 644 "$prefix/share/zsh/site-functions/_weft" <"$work/zsh"
    put 644 "$prefix/share/fish/vendor_completions.d/weft.fish" <"$work/fish"

    directory "$(dirname "$record")"
    # What the version before had, and this one has not, goes; directories stay on record.
    directories=
    while read -r path; do
        case $path in
        '') ;;
        */) directories+=$path$'\n' ;;
        *) printf '%s\n' "${installed[@]}" | grep -qxF -- "$path" || rm -f "$root$path" ;;
        esac
    done <<<"$(recorded)"
    { printf '%s' "$directories" && printf '%s\n' "${installed[@]}"; } >"$work/installed"
    put 644 "$record" <"$work/installed"
    echo "installed in $root$prefix; next: write /etc/weft/agent.toml (docs/configuration.md), then"
    echo "  systemctl enable --now weft-agent && weft cni install"
    ;;
uninstall)
    if [ ! -e "$root$record" ]; then
        echo "install.sh: nothing is installed in $root$prefix: there is no $root$record; PREFIX and DESTDIR say where" >&2
        exit 1
    fi
    directories=()
    while read -r path; do
        case $path in
        */) directories=("$path" ${directories[@]+"${directories[@]}"}) ;;
        *) rm -f "$root$path" ;;
        esac
    done <<<"$(recorded)"
    rm -f "$root$record"
    for path in ${directories[@]+"${directories[@]}"}; do
        # What others have put something into stays.
        rmdir --ignore-fail-on-non-empty "$root$path"
    done
    echo "removed from $root$prefix; what stays: /etc/weft, the run directory, and what \`weft cni install --uninstall\` removes"
    ;;
*)
    echo "install.sh: install or uninstall, not $verb" >&2
    exit 2
    ;;
esac
