#!/usr/bin/env bash
# Installs the Debian packages that building and running kobune need; does nothing where they are there.
set -euo pipefail
wanted=(gcc g++ lld libseccomp-dev nftables iproute2 procps)
missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
if ! command -v cargo >/dev/null; then
  echo "kobune is built with Rust 1.95 or later: install it from https://rustup.rs, then run this again" >&2
  exit 1
fi
