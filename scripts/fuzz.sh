#!/usr/bin/env bash
# Runs every fuzz target for some seconds (60), as many at once as there are cores; fails when one finds anything.
# With 0 seconds only what is kept in crates/fuzz/seeds is replayed, which always does the same.
# usage: fuzz.sh [SECONDS] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(json yaml protobuf patches expressions selectors tokens kustomize)
base=$(cargo metadata --format-version 1 --no-deps --locked | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
host=$(rustc -vV | sed -n 's/^host: //p')
# The coverage that libFuzzer follows; rustc passes it on to LLVM without any unstable option. These flags take the place
# of those in .cargo/config.toml: libFuzzer does not start in a static executable.
export RUSTFLAGS="-Clink-arg=-fuse-ld=lld \
-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
export CARGO_TARGET_DIR="$base/fuzz"
cargo build --locked --profile fuzz -p kobune-fuzz
binary="$CARGO_TARGET_DIR/$host/fuzz/kobune-fuzz"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
findings=$base/fuzz-findings
mkdir -p "$findings"
run() {
  local target=$1
  mkdir -p "$work/$target"
  local corpus=("$work/$target")
  [ ! -d "crates/fuzz/seeds/$target" ] || corpus+=("crates/fuzz/seeds/$target")
  local bound=-max_total_time=$seconds
  [ "$seconds" -gt 0 ] || bound=-runs=0
  if FUZZ_TARGET=$target "$binary" "$bound" -timeout=10 -rss_limit_mb=1024 -max_len=8192 \
    -dict=crates/fuzz/seeds/words.dict -artifact_prefix="$findings/$target-" "${corpus[@]}" >"$work/$target.log" 2>&1; then
    echo "fuzz $target: $(grep -E '^Done' "$work/$target.log")"
  else
    tail -n 60 "$work/$target.log"
    echo "fuzz $target: found something, see above and $findings" >&2
    return 1
  fi
}
export -f run
export binary work findings seconds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'set -euo pipefail; run {}'
