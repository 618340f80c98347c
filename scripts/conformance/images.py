#!/usr/bin/env python3
"""Packs the images that Kubernetes' end-to-end tests start, as one docker archive.

Usage: images.py FOLDER: reads FOLDER/bin, FOLDER/rootfs.tar and the test tree that build.sh made,
writes FOLDER/images.tar. The tests name images by registry and tag; the content is made of Debian's
packages and of the programs in the test tree, so that no registry is asked.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

BUSYBOX = "/bin/busybox"
E2E = "gcr.io/kubernetes-e2e-test-images"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Layer:
    """An uncompressed layer in memory: add files, folders and links, then read its bytes."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.GNU_FORMAT)

    def folder(self, path, mode=0o755):
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self.tar.addfile(entry)
        return self

    def file(self, path, content, mode=0o644):
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(content), mode
        self.tar.addfile(entry, io.BytesIO(content))
        return self

    def program(self, path, source, mode=0o755):
        with open(source, "rb") as program:
            return self.file(path, program.read(), mode)

    def link(self, path, target, kind=tarfile.SYMTYPE):
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname, entry.mode = kind, target, 0o777
        self.tar.addfile(entry)
        return self

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


def busybox():
    """What the busybox image holds: the applets as links, and the few files of /etc."""
    layer = Layer()
    for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/www"):
        layer.folder(name)
    layer.folder("tmp", 0o1777)
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")
    layer.file("etc/group", b"root:x:0:\nnobody:x:65534:\n")
    layer.program("bin/busybox", BUSYBOX)
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            layer.link(f"bin/{applet}", "busybox", tarfile.SYMTYPE)
    layer.link("usr/bin/env", "../../bin/busybox")
    return layer.bytes()


def httpd():
    """The part of the httpd image that tests rely on: the page and the command that serves it."""
    layer = Layer()
    for name in ("usr/local", "usr/local/apache2", "usr/local/apache2/htdocs", "usr/local/bin"):
        layer.folder(name)
    layer.file("usr/local/apache2/htdocs/index.html", b"<html><body><h1>It works!</h1></body></html>\n")
    layer.file(
        "usr/local/bin/httpd-foreground",
        b"#!/bin/sh\nexec busybox httpd -f -p 80 -h /usr/local/apache2/htdocs\n",
        0o755,
    )
    return layer.bytes()


def images(folder):
    """Each image as (tags, layers, config)."""
    tree = os.path.join(folder, "kubernetes-1.20.2")
    program = lambda name: os.path.join(folder, "bin", name)
    test_image = lambda path: open(os.path.join(tree, "test/images", path), "rb").read()
    with open(os.path.join(folder, "rootfs.tar"), "rb") as root:
        debian = root.read()
    small = busybox()
    agnhost = (
        Layer()
        .program("agnhost", program("agnhost"))
        .link("agnhost-2", "agnhost")
        .folder("uploads")
        .file("localhost.crt", test_image("agnhost/porter/localhost.crt"))
        .file("localhost.key", test_image("agnhost/porter/localhost.key"))
        .bytes()
    )
    pet = lambda name: (
        Layer()
        .file(f"{name}.jpg", test_image(f"{name}/html/{name}.jpg"))
        .file("data.json", test_image(f"{name}/html/data.json"))
        .bytes()
    )
    entry = {"Entrypoint": ["/agnhost"]}
    yield ["k8s.gcr.io/e2e-test-images/agnhost:2.21"], [debian, agnhost], {**entry, "Cmd": ["pause"]}
    for name in ("kitten", "nautilus"):
        yield [f"{E2E}/{name}:1.0"], [debian, agnhost, pet(name)], {**entry, "Cmd": ["test-webserver"]}
    pause = Layer().program("agnhost", program("agnhost")).bytes()
    yield ["k8s.gcr.io/pause:3.2"], [pause], {**entry, "Cmd": ["pause"]}
    yield ["docker.io/library/busybox:1.29"], [small], {"Cmd": ["sh"]}
    yield [f"{E2E}/nonroot:1.0"], [small], {"Cmd": ["sh"], "User": "1234"}
    yield [f"{E2E}/ipc-utils:1.0"], [debian], {"Cmd": ["sh"]}
    yield [f"{E2E}/jessie-dnsutils:1.0"], [debian], {"Cmd": ["bash"]}
    yield ["docker.io/library/perl:5.26"], [debian], {"Cmd": ["perl", "-de0"]}
    nnp = Layer().folder("usr/local/bin").program("usr/local/bin/nnp", program("nnp"), 0o4755).bytes()
    yield [f"{E2E}/nonewprivs:1.0"], [small, nnp], {"Cmd": ["nnp"]}
    yield (
        [f"docker.io/library/httpd:2.4.{minor}-alpine" for minor in (38, 39)],
        [small, httpd()],
        {"Cmd": ["httpd-foreground"], "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/usr/local/apache2"},
    )
    yield (
        [f"docker.io/library/nginx:1.{minor}-alpine" for minor in (14, 15)],
        [debian],
        {"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"},
    )
    yield (
        ["docker.io/library/redis:5.0.5-alpine"],
        [debian],
        {"Cmd": ["redis-server", "--protected-mode", "no"], "ExposedPorts": {"6379/tcp": {}}},
    )
    etcd = Layer().folder("usr/local/bin").link("usr/local/bin/etcd", "/usr/bin/etcd").bytes()
    yield ["k8s.gcr.io/etcd:3.4.13-0"], [debian, etcd], {"Cmd": ["etcd"]}
    sample = Layer().program("sample-apiserver", program("sample-apiserver")).bytes()
    yield [f"{E2E}/sample-apiserver:1.17"], [sample], {"Entrypoint": ["/sample-apiserver"]}
    regression = Layer().program("regression-issue-74839", program("regression-issue-74839")).bytes()
    yield [f"{E2E}/regression-issue-74839-amd64:1.0"], [regression], {"Entrypoint": ["/regression-issue-74839"]}
    consumer = Layer()
    for name in ("resource-consumer", "consume-cpu"):
        consumer.program(name, program(name))
    consumer = consumer.folder("consume-cpu-folder").bytes()
    yield [f"{E2E}/resource-consumer:1.5"], [debian, consumer], {"Entrypoint": ["/resource-consumer"]}


def main():
    folder = sys.argv[1]
    manifest, written = [], set()
    with tarfile.open(os.path.join(folder, "images.tar.part"), "w") as archive:

        def put(name, content):
            if name not in written:
                written.add(name)
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

        for tags, layers, config in images(folder):
            digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
            for digest, layer in zip(digests, layers):
                put(f"{digest}.tar", layer)
            document = json.dumps(
                {
                    "architecture": "amd64",
                    "os": "linux",
                    "config": {"Env": [PATH], **config},
                    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
                },
                sort_keys=True,
            ).encode()
            name = hashlib.sha256(document).hexdigest() + ".json"
            put(name, document)
            manifest.append({"Config": name, "RepoTags": tags, "Layers": [f"{digest}.tar" for digest in digests]})
        put("manifest.json", json.dumps(manifest).encode())
    os.replace(os.path.join(folder, "images.tar.part"), os.path.join(folder, "images.tar"))


if __name__ == "__main__":
    main()
