#!/usr/bin/env bash
# Builds every folder with a kustomization below some trees with kobune and with another program, and compares the bytes
# and whether there is an error at all. The exit code is 1 when they differ anywhere.
#
# usage: kustomize-compare.sh KOBUNE KUSTOMIZE DIR...         such as: target/release/kobune "kustomize build" ~/trees
#        kustomize-compare.sh --time KOBUNE KUSTOMIZE         a small folder and 4,000 objects, side by side
#
# KUSTOMIZE is a command before the folder: "kustomize build", "kubectl kustomize". Neither program reaches the network.
set -euo pipefail
export http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=file
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = --time ]; then
  kobune=$2
  read -ra other <<<"$3"
  mkdir -p "$work/small" "$work/large"
  object() { printf 'apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d%s}\nspec:\n  template:\n    spec:\n      containers:\n      - {name: c, image: web, envFrom: [{configMapRef: {name: m%s}}]}\n' "$1" "$1"; }
  map() { printf -- '- name: m%s\n  literals: [a=b]\n' "$1"; }
  for size in small:2 large:2000; do
    folder=$work/${size%:*}
    {
      printf 'namePrefix: p-\nnamespace: shop\nlabels: [{pairs: {a: b}, includeSelectors: true}]\n'
      printf 'images: [{name: web, newTag: "2"}]\nresources: [objects.yaml]\nconfigMapGenerator:\n'
      for number in $(seq "${size#*:}"); do map "$number"; done
    } >"$folder/kustomization.yaml"
    for number in $(seq "${size#*:}"); do object "$number"; echo ---; done >"$folder/objects.yaml"
    "$kobune" build "$folder" >"$work/one"
    "${other[@]}" "$folder" >"$work/two" 2>/dev/null
    cmp "$work/one" "$work/two"
    runs=1
    [ "${size%:*}" = large ] || runs=20
    measure() {
      local begin end
      begin=$(date +%s%N)
      for _ in $(seq "$runs"); do "$@" "$folder" >/dev/null 2>&1; done
      end=$(date +%s%N)
      awk -v time=$((end - begin)) -v runs="$runs" 'BEGIN { printf "%.1f ms\n", time / runs / 1e6 }'
    }
    echo "${size%:*} ($((2 * ${size#*:})) objects): kobune $(measure "$kobune" build), ${other[*]} $(measure "${other[@]}")"
  done
  exit 0
fi

kobune=$1
read -ra other <<<"$2"
shift 2
equal=0 fail=0 wrong=0
while IFS= read -r -d '' file; do
  folder=$(dirname "$file")
  ours=0 theirs=0
  timeout 120 "$kobune" build "$folder" >"$work/ours" 2>"$work/ours.err" || ours=$?
  timeout 120 "${other[@]}" "$folder" >"$work/theirs" 2>"$work/theirs.err" || theirs=$?
  if [ "$ours" -ne 0 ] && [ "$theirs" -ne 0 ]; then
    fail=$((fail + 1))
  elif [ "$ours" -eq "$theirs" ] && cmp -s "$work/ours" "$work/theirs"; then
    equal=$((equal + 1))
  else
    wrong=$((wrong + 1))
    echo "$folder: kobune ends with $ours, ${other[0]} with $theirs"
    diff "$work/theirs" "$work/ours" | head -n 6 || true
    head -n 3 "$work/ours.err"
  fi
done < <(find "$@" \( -name kustomization.yaml -o -name kustomization.yml -o -name Kustomization \) -type f -print0)
echo "equal bytes: $equal; both fail: $fail; different: $wrong"
[ "$wrong" -eq 0 ]
