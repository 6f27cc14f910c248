#!/usr/bin/env bash
# Puts in place what was built, or takes it away again, and nothing else: install.sh install|uninstall BUILT
# PREFIX is where it will run from, DESTDIR what stands before that for now.
set -euo pipefail
cd "$(dirname "$0")/.."

verb=${1:?install or uninstall}
built=${2:?the directory with the programs}
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
bin=$prefix/bin
units=$prefix/lib/systemd/system
man=$prefix/share/man/man1
programs=(weft weft-cni)
services=(weft-agent.service weft-store.service)

pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
"$built/weft" man "$pages" >/dev/null

completions() { # shell, file
    echo "$1 $prefix/$2"
}
shells=$(
    completions bash share/bash-completion/completions/weft
    completions zsh share/zsh/site-functions/_weft
    completions fish share/fish/vendor_completions.d/weft.fish
)

case $verb in
install)
    for program in "${programs[@]}"; do
        install -D -m 755 "$built/$program" "$root$bin/$program"
    done
    for service in "${services[@]}"; do
        install -d "$root$units"
        sed "s|@BINDIR@|$bin|" "deploy/systemd/$service" >"$root$units/$service"
    done
    install -D -m 644 -t "$root$man" "$pages"/*
    while read -r shell file; do
        install -d "$root$(dirname "$file")"
        "$built/weft" completions "$shell" >"$root$file"
    done <<<"$shells"
    echo "installed in $root$prefix; next: write /etc/weft/agent.toml (docs/configuration.md), then"
    echo "  systemctl enable --now weft-agent && weft cni install"
    ;;
uninstall)
    for program in "${programs[@]}"; do
        rm -f "$root$bin/$program"
    done
    for service in "${services[@]}"; do
        rm -f "$root$units/$service"
    done
    for page in "$pages"/*; do
        rm -f "$root$man/$(basename "$page")"
    done
    while read -r _ file; do
        rm -f "$root$file"
    done <<<"$shells"
    echo "removed from $root$prefix; what stays: /etc/weft, the run directory, and what \`weft cni install --uninstall\` removes"
    ;;
*)
    echo "install.sh: install or uninstall, not $verb" >&2
    exit 2
    ;;
esac
