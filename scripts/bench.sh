#!/usr/bin/env bash
# Runs the benches on the release executable; all traffic stays in network namespaces that the bench makes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(cargo metadata --format-version 1 --no-deps --locked | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
find_binary() {
  find "$target" -maxdepth 3 -path "*/release/$1" -type f -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d' ' -f2-
}
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1e6}' /proc/meminfo), Linux $(uname -r)"
exec "$(find_binary kobune-bench)" "$(find_binary kobune)" "$@"
