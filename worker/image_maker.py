"""Makes small container images out of nothing but this machine's static busybox; pushes them too.

For demonstrations and tests where no public registry can be reached. Reproducible: the same input gives
the same digests.
"""

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.runtimes.base import Credential
from worker.runtimes.docker_save import add_file, write_archive
from worker.runtimes.registry import ARCHITECTURE, DOCKER_MANIFEST

BUSYBOX = Path("/bin/busybox")
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EPOCH = "1970-01-01T00:00:00Z"
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = b"root:x:0:\nnogroup:x:65534:\n"
DIRECTORIES = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700}

PI_SCRIPT = """#!/bin/sh
# Print better and better approximations of pi (Leibniz): testpi [LINES [PAUSE_S]]
lines=${1:-10} pause=${2:-0.2} i=1
while [ "$i" -le "$lines" ]; do
    awk -v n="$((i * 20000))" 'BEGIN {
        s = 0; for (k = 0; k < n; k++) s += (k % 2 ? -1 : 1) / (2 * k + 1)
        printf "terms %d  pi = %.10f\\n", n, 4 * s }'
    i=$((i + 1))
    [ "$i" -gt "$lines" ] || sleep "$pause"
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A regular file to put into an image; `path` has no leading slash."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An image of one layer: its config (JSON) and its root file system (tar, not compressed)."""

    config: bytes
    layer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What Docker calls the config; empty parts are left out."""

    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/bin"})
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""


def build_busybox_image(config: ImageConfig, extras: Sequence[Extra] = ()) -> BuiltImage:
    """A 2 MB image of busybox and its applets with some files added.

    Raises FileNotFoundError naming the Debian package when this machine has no static busybox.
    """
    layer = _busybox_root(extras)
    document = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "created": EPOCH,
        "config": _docker_config(config),
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created": EPOCH, "created_by": "prominence"}],
    }
    return BuiltImage(config=json.dumps(document, sort_keys=True).encode(), layer=layer)


def build_pi_image() -> BuiltImage:
    """An image whose entrypoint prints approximations of pi, line by line."""
    config = ImageConfig(entrypoint=("/bin/testpi",))
    return build_busybox_image(
        config, [Extra(path="bin/testpi", data=PI_SCRIPT.encode(), mode=0o755)]
    )


def save_image(image: BuiltImage, path: Path, *, name: str) -> None:
    """Write the image as a `docker save` tarball; `name` is "repository:tag"."""
    with tempfile.NamedTemporaryFile(suffix=".layer") as layer:
        layer.write(image.layer)
        layer.flush()
        write_archive(path, image.config, [Path(layer.name)], name=name)


def push_image(
    image: BuiltImage, registry: str, *, name: str, credential: Credential | None = None
) -> str:
    """Put the image as `name` ("repository:tag") into the registry at a base URL; return its digest.

    Raises urllib.error.HTTPError when the registry refuses.
    """
    repository, _, tag = name.rpartition(":")
    push = _Push(base=f"{registry.rstrip('/')}/v2/{repository}", credential=credential)
    layer = gzip.compress(image.layer, 6, mtime=0)
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": CONFIG_TYPE, **push.blob(image.config)},
        "layers": [{"mediaType": LAYER_TYPE, **push.blob(layer)}],
    }
    body = json.dumps(manifest, sort_keys=True).encode()
    push.call("PUT", f"{push.base}/manifests/{tag}", body, DOCKER_MANIFEST)
    return _digest(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Push:
    base: str
    credential: Credential | None

    def call(self, method: str, url: str, data: bytes | None, kind: str = "") -> str:
        """Make one request past any proxy; return the Location header."""
        headers = {"Content-Type": kind or "application/octet-stream"}
        if self.credential:
            pair = f"{self.credential.username}:{self.credential.token}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return str(answer.headers.get("Location", ""))

    def blob(self, data: bytes) -> dict[str, str | int]:
        """Upload unless it is there; return the descriptor's digest and size."""
        digest = _digest(data)
        if not self._has(digest):
            location = self.call("POST", f"{self.base}/blobs/uploads/", b"")
            url = urllib.parse.urljoin(self.base, location)
            joint = "&" if "?" in url else "?"
            self.call("PUT", f"{url}{joint}digest={urllib.parse.quote(digest)}", data)
        return {"digest": digest, "size": len(data)}

    def _has(self, digest: str) -> bool:
        try:
            self.call("HEAD", f"{self.base}/blobs/{digest}", None)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return False
        return True


def _docker_config(config: ImageConfig) -> dict[str, object]:
    parts: dict[str, object] = {
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "WorkingDir": config.workdir,
        "User": config.user,
    }
    return {name: value for name, value in parts.items() if value}


def _busybox_root(extras: Sequence[Extra]) -> bytes:
    if not BUSYBOX.exists():
        raise FileNotFoundError(f"{BUSYBOX}: install Debian's package busybox-static")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in (
            "bin",
            "dev",
            "etc",
            "home",
            "proc",
            "root",
            "sys",
            "tmp",
            "usr",
            "var",
            "var/tmp",
        ):
            _add_entry(archive, name, tarfile.DIRTYPE, DIRECTORIES.get(name, 0o755))
        for name, target in (("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")):
            _add_entry(archive, name, tarfile.SYMTYPE, 0o777, target)
        add_file(archive, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in _applets():
            _add_entry(archive, f"bin/{applet}", tarfile.SYMTYPE, 0o777, "busybox")
        add_file(archive, "etc/passwd", PASSWD)
        add_file(archive, "etc/group", GROUP)
        for extra in extras:
            add_file(archive, extra.path, extra.data, extra.mode)
    return out.getvalue()


def _applets() -> list[str]:
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return sorted(set(listed.stdout.split()) - {"busybox"})


def _add_entry(archive: tarfile.TarFile, name: str, kind: bytes, mode: int, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname = kind, mode, link
    archive.addfile(member)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
