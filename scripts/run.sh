#!/usr/bin/env bash
# The main job: builds kobune, starts a one-node cluster on this machine, deploys examples/hello and shows what answers.
# Ctrl-C stops kobune and its pods; the data stays in KOBUNE_DATA_DIR (default /var/lib/kobune).
set -euo pipefail
cd "$(dirname "$0")/.."
export KOBUNE_DATA_DIR="${KOBUNE_DATA_DIR:-/var/lib/kobune}"
[ "$(id -u)" = 0 ] || { echo "kobune runs containers and needs root: sudo make run" >&2; exit 1; }

echo "building the release executable (the first time takes some minutes)"
cargo build --release --locked -p kobune
target=$(cargo metadata --format-version 1 --no-deps --locked | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
kobune=$(find "$target" -maxdepth 3 -path '*/release/kobune' -type f -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d' ' -f2-)
[ -x "$kobune" ] || { echo "cargo has built no executable below $target" >&2; exit 1; }

mkdir -p "$KOBUNE_DATA_DIR"
log="$KOBUNE_DATA_DIR/kobune.log"
echo "starting kobune up (its log: $log)"
"$kobune" up "$@" >"$log" 2>&1 &
server=$!
stop() {
  trap - INT TERM EXIT
  echo
  "$kobune" down || true
  wait "$server" 2>/dev/null || true
}
trap 'stop; exit 130' INT TERM
trap stop EXIT

export KUBECONFIG="$KOBUNE_DATA_DIR/admin.kubeconfig"
died() {
  echo "kobune has ended; the end of $log:" >&2
  tail -n 20 "$log" >&2
  exit 1
}
for _ in $(seq 300); do
  kill -0 "$server" 2>/dev/null || died
  [ -s "$KUBECONFIG" ] && grep -q 'answers at' "$log" && break
  sleep 0.1
done
sed -n 's/.*\(kobune [0-9.]* answers at\)/\1/p' "$log"

# Where a proxy leads out of the house, the cluster is still in it.
host=$(grep -m 1 'server: ' "$KUBECONFIG" | tr -d '"[]' | sed -E 's|.*https://(.*):[0-9]+$|\1|')
NO_PROXY="${NO_PROXY:-${no_proxy:-}}"
NO_PROXY="${NO_PROXY:+$NO_PROXY,}$host"
export NO_PROXY no_proxy="$NO_PROXY"

echo "applying examples/hello"
"$kobune" apply --filename examples/hello --timeout 120 || died

address=http://hello.hello.svc.cluster.local/
echo "asking the Service, $address:"
seen=""
for _ in $(seq 50); do
  answer=$("$kobune" tool http-get --dns 10.96.0.10 "$address") || { sleep 0.2; continue; }
  pod=$(grep -o 'hello-[a-z0-9]*-[a-z0-9]*' <<<"$answer" | head -n 1)
  case " $seen " in *" $pod "*) continue ;; esac
  printf '%s\n\n' "$answer"
  seen="$seen $pod"
  [ "$(wc -w <<<"$seen")" -ge 2 ] && break
done
[ "$(wc -w <<<"$seen")" -ge 2 ] || died

cat <<MESSAGE
Two pods answer. To go on, in another terminal:

  export KUBECONFIG=$KUBECONFIG
  kubectl get pods -A -o wide
  kubectl -n hello logs deployment/hello
  kubectl -n hello scale deployment/hello --replicas=3

Ctrl-C stops kobune and its pods; '$kobune down --purge' also removes all data.
MESSAGE
wait "$server"
