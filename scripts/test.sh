#!/usr/bin/env bash
# Runs every test, with cargo-nextest where it is installed, and says at the end what was skipped and why.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target
export WEFT_SKIPPED="$PWD/target/skipped.txt"
: >"$WEFT_SKIPPED"
export PATH="$PATH:/usr/sbin:/sbin"

cargo build --workspace
status=0
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --no-fail-fast || status=$?
    # It leaves the examples of the documentation out.
    cargo test -q --workspace --doc || status=$?
else
    cargo test --workspace --no-fail-fast || status=$?
fi
make --no-print-directory loom || status=$?

if [ -s "$WEFT_SKIPPED" ]; then
    echo "skipped: $(sort -u "$WEFT_SKIPPED" | wc -l)"
    sort -u "$WEFT_SKIPPED" | sed 's/^/  /'
else
    echo "skipped: 0"
fi
exit "$status"
