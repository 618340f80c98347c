#!/usr/bin/env bash
# Runs Kubernetes' own conformance tests against a cluster of two machines, each a network namespace,
# with no route to anywhere else. build.sh must have made the tests and images before.
#
#   scripts/conformance/run.sh [--parallel N] [--focus REGEX] [--skip REGEX] [--keep] [--up]
#
# The tests that no cluster of 1.36 passes are left out (gone.txt). With --up the cluster is only started; it and
# one of a run with --keep are used by the next run. Results go to ~/.cache/kobune-conformance/results; the exit code is the
# tests'.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${KOBUNE_CONFORMANCE_DIR:-$HOME/.cache/kobune-conformance}
kobune=${KOBUNE:-${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release/kobune}
tools=$HOME/.cache/kobune-tools
name=${KOBUNE_CONFORMANCE_NAME:-kbc}
parallel=1 focus='\[Conformance\]' skip='' keep='' up_only=''
while [ $# -gt 0 ]; do
    case $1 in
    --parallel) parallel=$2; shift ;;
    --focus) focus=$2; shift ;;
    --skip) skip=$2; shift ;;
    --keep) keep=1 ;;
    --up) up_only=1 keep=1 ;;
    *) echo "unknown flag $1" >&2; exit 2 ;;
    esac
    shift
done
kobune=$(realpath "$kobune")
work=/var/tmp/$name
results=${KOBUNE_CONFORMANCE_RESULTS:-$out/results}

down() {
    [ -n "$keep" ] && return 0
    for node in two one; do
        [ -s "$work/$node.pid" ] && kill "$(cat "$work/$node.pid")" 2>/dev/null
        while kill -0 "$(cat "$work/$node.pid")" 2>/dev/null; do sleep 0.1; done
        nsenter --net="/run/netns/$name-$node" "$kobune" down --purge --data-dir "$work/$node" >/dev/null 2>&1 || true
        ip netns del "$name-$node" 2>/dev/null || true
    done
    ip netns del "$name-link" 2>/dev/null || true
    rm -rf "$work"
}

start() { # NODE ARGUMENTS...: a kobune in the node's namespace
    local node=$1
    shift
    nsenter --net="/run/netns/$name-$node" "$kobune" "$@" --data-dir "$work/$node" --node-name "$node" \
        >"$results/$node.log" 2>&1 </dev/null &
    echo $! >"$work/$node.pid"
}

trap down EXIT
rm -rf "$results"
mkdir -p "$results"
if [ ! -d "$work" ]; then
    mkdir -p "$work"
    ip netns add "$name-link"
    ip -n "$name-link" link add bridge type bridge
    ip -n "$name-link" addr add 172.30.0.1/24 dev bridge
    ip -n "$name-link" link set bridge up
    ip -n "$name-link" link set lo up
    address=10
    for node in one two; do
        ip netns add "$name-$node"
        ip -n "$name-$node" link set lo up
        ip -n "$name-$node" link add uplink type veth peer name "$node" netns "$name-link"
        ip -n "$name-link" link set "$node" master bridge up
        ip -n "$name-$node" addr add "172.30.0.$address/24" dev uplink
        ip -n "$name-$node" link set uplink up
        ip -n "$name-$node" route add default via 172.30.0.1
        address=$((address + 1))
    done
    start one up
    until [ -s "$work/one/admin.kubeconfig" ]; do sleep 0.1; done
    export KUBECONFIG=$work/one/admin.kubeconfig
    kubectl() { nsenter --net="/run/netns/$name-one" "$tools/kubectl" "$@"; }
    until kubectl get --raw /readyz >/dev/null 2>&1; do sleep 0.2; done
    token=$(nsenter --net="/run/netns/$name-one" "$kobune" token create | tail -1)
    start two agent --server https://172.30.0.10:6443 --token "$token"
    for node in one two; do
        until nsenter --net="/run/netns/$name-$node" "$kobune" image load --data-dir "$work/$node" "$out/images.tar" >"$results/images-$node.log" 2>&1; do sleep 0.5; done
    done
    until [ "$(kubectl get nodes --no-headers 2>/dev/null | grep -cw Ready)" = 2 ]; do sleep 0.2; done
    kubectl get nodes -o wide
fi
[ -n "$up_only" ] && exit 0

# Some tests first ask google.com whether the machine is on the internet. This one is not, on purpose: something nearby
# says yes, as a proxy, for that question alone.
nsenter --net="/run/netns/$name-one" python3 "$here/internet.py" 127.0.0.1 3128 >"$results/internet.log" 2>&1 &
internet=$!

# The tests run beside the first machine, as a person with an admin's kubeconfig would.
gone=$(grep -v '^#' "$here/gone.txt" | grep . | paste -sd '|')
skip=${skip:+$skip|}$gone
suite=("$out/bin/ginkgo" -noColor -nodes="$parallel" -focus="$focus" -skip="$skip" "$out/bin/e2e.test" --
    --kubeconfig="$work/one/admin.kubeconfig" --kubectl-path="$tools/kubectl" --provider=skeleton
    --repo-root="$out/kubernetes-1.20.2" --report-dir="$results" --dump-logs-on-failure=false --disable-log-dump)
nsenter --net="/run/netns/$name-one" env PATH="$tools:$PATH" HTTP_PROXY=http://127.0.0.1:3128 \
    NO_PROXY=localhost,127.0.0.0/8,10.0.0.0/8,172.30.0.0/16 "${suite[@]}" >"$results/e2e.log" 2>&1 && code=0 || code=$?
kill "$internet"
python3 "$here/summary.py" "$results"
exit $code
