"""Archives as they come, and as an attacker would make them: name -> bytes."""

import bz2
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable

MEMBERS = {"pack/a.txt": b"hello\n", "pack/bin/run.sh": b"#!/bin/sh\necho ran\n"}


def tar(mode: str, *extra: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A good tar with further members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]
        for name, data in MEMBERS.items():
            member = entry(name, mode=0o755 if name.endswith(".sh") else 0o644)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
        for item in extra:
            if isinstance(item, tuple):
                item[0].size = len(item[1])
                file.addfile(item[0], io.BytesIO(item[1]))
            else:
                file.addfile(item)
    return out.getvalue()


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, target, mode, 1_600_000_000
    return info


def link(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, target)


def zipped(*extra: tuple[str, bytes, int]) -> bytes:
    """A good zip with further (name, content, mode)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in MEMBERS.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            file.writestr(info, data)
        for name, data, mode in extra:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, data)
    return out.getvalue()


GOOD: dict[str, Callable[[], bytes]] = {
    "a.tar": lambda: tar("w"),
    "a.tar.gz": lambda: tar("w:gz"),
    "A.TGZ": lambda: tar("w:gz"),
    "a.tar.bz2": lambda: tar("w:bz2"),
    "a.zip": zipped,
}
SINGLE: dict[str, Callable[[], bytes]] = {
    "data.txt.gz": lambda: gzip.compress(b"hello\n"),
    "data.txt.bz2": lambda: bz2.compress(b"hello\n"),
}
LINK = stat.S_IFLNK | 0o777
DEVICE = stat.S_IFBLK | 0o666
ATTACKS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "tar slip": ("a.tar", lambda: tar("w", (entry("../evil"), b"x"))),
    "tar slip inside": ("a.tar", lambda: tar("w", (entry("pack/../../evil"), b"x"))),
    "tar absolute": ("a.tgz", lambda: tar("w:gz", (entry("/tmp/evil"), b"x"))),
    "zip slip": ("a.zip", lambda: zipped(("../evil", b"x", 0o644))),
    "zip absolute": ("a.zip", lambda: zipped(("/tmp/evil", b"x", 0o644))),
    "link to absolute": ("a.tar", lambda: tar("w", link("pack/out", "/etc"))),
    "link out": ("a.tar", lambda: tar("w", link("pack/out", "../../x"))),
    "link climbing later": ("a.tar", lambda: tar("w", link("d", "."), link("u", "d/.."))),
    "write through link": (
        "a.tar",
        lambda: tar("w", link("out", "pack"), (entry("out/../../evil"), b"x")),
    ),
    "link then file below it": (
        "a.tar",
        lambda: tar("w", link("pack/out", "/"), (entry("pack/out/evil"), b"x")),
    ),
    "zip link": ("a.zip", lambda: zipped(("out", b"/etc/passwd", LINK))),
    "hard link out": ("a.tar", lambda: tar("w", entry("hard", tarfile.LNKTYPE, "../secret"))),
    "hard link absolute": ("a.tar", lambda: tar("w", entry("h", tarfile.LNKTYPE, "/etc/passwd"))),
    "hard link to nothing": ("a.tar", lambda: tar("w", entry("h", tarfile.LNKTYPE, "pack/no"))),
    "device": ("a.tar", lambda: tar("w", entry("disk", tarfile.BLKTYPE))),
    "character device": ("a.tar", lambda: tar("w", entry("mem", tarfile.CHRTYPE))),
    "fifo": ("a.tar", lambda: tar("w", entry("pipe", tarfile.FIFOTYPE))),
    "zip device": ("a.zip", lambda: zipped(("disk", b"", DEVICE))),
    "file below a link": (
        "a.tar",
        lambda: tar("w", link("out", "pack"), (entry("out/evil"), b"x")),
    ),
    "file instead of a directory": ("a.tar", lambda: tar("w", (entry("pack"), b"x"))),
    "deep": ("a.tar", lambda: tar("w", (entry("d/" * 150 + "a"), b"x"))),
    "long name": ("a.tar", lambda: tar("w", (entry("n" * 300), b"x"))),
    "no archive": ("a.tgz", lambda: b"<html>not found</html>"),
    "no zip": ("a.zip", lambda: b"PK\x03\x04 no"),
    "no gzip": ("a.gz", lambda: b"nothing of the kind"),
    "no bzip2": ("a.bz2", lambda: b"nothing of the kind"),
    "cut": ("a.tgz", lambda: tar("w:gz")[:-60]),
    "cut tar": ("a.tar", lambda: tar("w")[:700]),
}
MB = 1 << 20
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zip bomb": ("a.zip", lambda: zipped(("zeros", bytes(20 * MB), 0o644))),
    "gzip bomb": ("zeros.gz", lambda: gzip.compress(bytes(20 * MB))),
    "bzip2 bomb": ("zeros.bz2", lambda: bz2.compress(bytes(20 * MB))),
    "tar bomb": ("a.tgz", lambda: tar("w:gz", (entry("zeros"), bytes(20 * MB)))),
}
