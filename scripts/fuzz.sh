#!/usr/bin/env bash
# Fuzzes the targets named, or every one, for FUZZ_SECONDS each. Needs a C++ compiler and nothing else: the stable
# toolchain makes the instrumentation. `cargo fuzz run -s none TARGET` does the same, where it is installed.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${FUZZ_SECONDS:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
level="-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares"
tables="-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $level $tables -Ccodegen-units=1"
# With an explicit target, build scripts are not instrumented.
cargo build --release --bins --target "$host" --target-dir target

if [ $# -eq 0 ]; then
    set -- $(cd seeds && ls)
fi
status=0
for target in "$@"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "fuzz $target: $seconds s"
    "target/$host/release/$target" "corpus/$target" "seeds/$target" -max_total_time="$seconds" -max_len=4096 \
        -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
        >"artifacts/$target.log" 2>&1 || status=$?
    grep -E "^Done |^stat::average|SUMMARY|panicked|Test unit written" "artifacts/$target.log" || tail -5 "artifacts/$target.log"
done
exit "$status"
