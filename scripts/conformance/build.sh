#!/usr/bin/env bash
# Builds Kubernetes' own end-to-end tests and the images that they start, from Debian's source and
# binary packages alone. Debian's newest source package that holds the tests is of 1.20: what they
# ask is still part of today's conformance list, but for the APIs that are gone since.
#
#   scripts/conformance/build.sh [FOLDER]     default ~/.cache/kobune-conformance
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$HOME/.cache/kobune-conformance}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
source_package=kubernetes_1.20.5+really1.20.2.orig.tar.gz
source_sha256=b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc

mkdir -p "$out"/{bin,gopath/src/k8s.io}
cd "$out"

missing=()
for package in golang-1.19-go debootstrap busybox-static python3; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ ! -d kubernetes-1.20.2 ]; then
    echo "fetching Kubernetes 1.20.2 from Debian's source package"
    curl -fsS --retry 3 -o "$source_package" "$mirror/pool/main/k/kubernetes/$source_package"
    echo "$source_sha256  $source_package" | sha256sum --check --quiet
    tar xzf "$source_package"
    rm "$source_package"
fi
ln -sfn "$out/kubernetes-1.20.2" gopath/src/k8s.io/kubernetes

# The manifests that tests read are embedded by a generator which is not part of the source package;
# with `--repo-root` they are read from the folder, so an empty set is enough to compile.
cat >gopath/src/k8s.io/kubernetes/test/e2e/generated/bindata.go <<'GO'
package generated

import "fmt"

// Asset finds nothing: files are read from the repository's folder.
func Asset(name string) ([]byte, error) { return nil, fmt.Errorf("no asset %s", name) }

// AssetNames is empty, see Asset.
func AssetNames() []string { return nil }
GO

# Since 1.24 a service account has no Secret of its own; every test of 1.20 waits for one.
sed -i 's/return len(t.Secrets) > 0, nil/return t != nil, nil/' gopath/src/k8s.io/kubernetes/test/e2e/framework/util.go

export PATH=/usr/lib/go-1.19/bin:$PATH GO111MODULE=off GOPATH=$out/gopath CGO_ENABLED=0 GOCACHE=$out/gocache GOFLAGS=
build() { # NAME PACKAGE
    [ -x "$out/bin/$1" ] && return
    echo "building $1"
    (cd "$GOPATH/src/k8s.io/kubernetes" && go build -ldflags '-s -w' -o "$out/bin/$1" "./$2")
}
if [ ! -x bin/e2e.test ]; then
    echo "building e2e.test (several minutes)"
    (cd "$GOPATH/src/k8s.io/kubernetes" && go test -c -o "$out/bin/e2e.test" ./test/e2e)
fi
build ginkgo vendor/github.com/onsi/ginkgo/ginkgo
build agnhost test/images/agnhost
build sample-apiserver staging/src/k8s.io/sample-apiserver
build nnp test/images/nonewprivs
build resource-consumer test/images/resource-consumer
build consume-cpu test/images/resource-consumer/consume-cpu
build regression-issue-74839 test/images/regression-issue-74839

if [ ! -e rootfs.tar ]; then
    echo "making the root folder of the images with a shell"
    debootstrap --variant=minbase \
        --include=ca-certificates,curl,bind9-dnsutils,netcat-openbsd,iproute2,iperf,iputils-ping,net-tools,procps,wget,util-linux,stress,nginx-light,redis-server,etcd-server,etcd-client,apache2 \
        bookworm rootfs "$mirror" >debootstrap.log 2>&1 || { tail -20 debootstrap.log; exit 1; }
    rm -rf rootfs/var/cache/apt/* rootfs/var/lib/apt/lists/* rootfs/usr/share/{doc,man,locale}
    tar --numeric-owner -C rootfs -cf rootfs.tar .
    rm -rf rootfs
fi
echo "packing the images"
python3 "$here/images.py" "$out"
