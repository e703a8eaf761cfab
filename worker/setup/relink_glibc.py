#!/usr/bin/env python3
"""Make programs built against glibc 2.38 or newer load on Debian 12 (glibc 2.36), in place.

Since glibc 2.38 its headers turn `strtol()` and relatives into `__isoc23_strtol()`, which differ only
in reading C23's "0b" prefix. Often that is all a newer binary wants of a newer glibc. The old name is
the tail of the new one, so both fit in the string table as it is: the symbol's name is moved past the
prefix and its version need is replaced by the oldest one, GLIBC_2.2.5.

A file that needs anything else newer than 2.36 is an error, never a guess.

Usage: relink_glibc.py FILE...   (ELF64 little endian; other files are left alone; idempotent)
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEWEST_GLIBC = (2, 36)
BASE_VERSION = b"GLIBC_2.2.5"
PREFIX = b"__isoc23_"
SHT_DYNSYM, SHT_VERNEED, SHT_VERSYM = 11, 0x6FFFFFFE, 0x6FFFFFFF
SYMBOL_BYTES = 24


class CannotRelinkError(Exception):
    """The file truly needs a newer glibc; it was not changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The part of an ELF section header that is needed here (offsets and sizes in bytes)."""

    kind: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionNeed:
    """One entry of the version need table: its place, and the index symbols refer to it by."""

    offset: int
    name_offset: int
    name: bytes
    index: int


class Elf:
    """A dynamic ELF file held in memory."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        sections = list(self._sections())
        by_kind = {section.kind: section for section in reversed(sections)}
        self.versioned = {SHT_DYNSYM, SHT_VERNEED, SHT_VERSYM} <= by_kind.keys()
        """Whether the file asks for versions of its libraries; if not, it has no use here."""
        if self.versioned:
            self.symbols = by_kind[SHT_DYNSYM]
            self.needs = by_kind[SHT_VERNEED]
            self.versions = by_kind[SHT_VERSYM]
            self._strings = sections[self.symbols.link].offset

    def _sections(self) -> Iterator[Section]:
        (start,) = struct.unpack_from("<Q", self.data, 0x28)
        size, count = struct.unpack_from("<HH", self.data, 0x3A)
        for i in range(count):
            fields = struct.unpack_from("<IIQQQQIIQQ", self.data, start + i * size)
            yield Section(kind=fields[1], offset=fields[4], size=fields[5], link=fields[6])

    def string(self, offset: int) -> bytes:
        """The dynamic string at an offset of the string table."""
        start = self._strings + offset
        return bytes(self.data[start : self.data.index(b"\0", start)])

    def version_needs(self) -> Iterator[VersionNeed]:
        """Every version of every library that the file asks for."""
        library = self.needs.offset
        while True:
            _, count, _, first, following = struct.unpack_from("<HHIII", self.data, library)
            entry = library + first
            for _ in range(count):
                _, _, index, name, step = struct.unpack_from("<IHHII", self.data, entry)
                yield VersionNeed(
                    offset=entry, name_offset=name, name=self.string(name), index=index
                )
                entry += step
            if not following:
                return
            library += following

    def symbols_of(self, indexes: frozenset[int]) -> Iterator[tuple[int, int]]:
        """(place of the symbol, offset of its name) of the symbols bound to these versions."""
        for i in range(self.symbols.size // SYMBOL_BYTES):
            (version,) = struct.unpack_from("<H", self.data, self.versions.offset + 2 * i)
            if version & 0x7FFF in indexes:
                place = self.symbols.offset + SYMBOL_BYTES * i
                yield place, struct.unpack_from("<I", self.data, place)[0]


def relink(path: Path) -> list[str]:
    """Rebind the file's too new symbols in place; return their names (empty: nothing to do).

    Raises CannotRelinkError, the file untouched, when one of them has no old twin.
    """
    data = bytearray(path.read_bytes())
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    elf = Elf(data)
    if not elf.versioned:
        return []
    needs = list(elf.version_needs())
    newer = [need for need in needs if _too_new(need.name)]
    base = next((need for need in needs if need.name == BASE_VERSION), None)
    if not newer:
        return []
    if base is None:
        raise CannotRelinkError(f"{path}: has no {BASE_VERSION.decode()} to bind to")
    renamed = _rename_symbols(elf, frozenset(need.index for need in newer), path)
    for need in newer:
        struct.pack_into("<I", data, need.offset, _elf_hash(BASE_VERSION))
        struct.pack_into("<I", data, need.offset + 8, base.name_offset)
    path.write_bytes(data)
    return renamed


def _rename_symbols(elf: Elf, indexes: frozenset[int], path: Path) -> list[str]:
    found = [(place, offset, elf.string(offset)) for place, offset in elf.symbols_of(indexes)]
    for _, _, name in found:
        if not name.startswith(PREFIX):
            raise CannotRelinkError(f"{path}: needs {name.decode()} of a newer glibc")
    for place, offset, _ in found:
        struct.pack_into("<I", elf.data, place, offset + len(PREFIX))
    return [name.decode() for _, _, name in found]


def _too_new(version: bytes) -> bool:
    if not version.startswith(b"GLIBC_2."):
        return False
    return tuple(int(part) for part in version[6:].split(b".")[:2]) > NEWEST_GLIBC


def _elf_hash(name: bytes) -> int:
    """The System V ABI's hash of a version name."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


def main(paths: list[str]) -> int:
    """Relink each file; 1 when one of them cannot be."""
    for name in paths:
        try:
            renamed = relink(Path(name))
        except CannotRelinkError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        if renamed:
            sys.stdout.write(f"relinked {name}: {', '.join(renamed)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
