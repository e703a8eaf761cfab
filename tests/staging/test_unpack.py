"""Archives: all forms of W30, and what no archive may do to the machine."""

import os
import stat
from pathlib import Path

import pytest

from tests.staging.archives import ATTACKS, BOMBS, GOOD, MB, SINGLE, entry, link, tar
from worker.staging.tree import TooLarge
from worker.staging.unpack import UnpackFailed, form_of, unpack


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A scratch directory with something beside it that must stay as it is."""
    (tmp_path / "secret").write_text("secret")
    inner = tmp_path / "work"
    inner.mkdir()
    return inner


def bring(scratch: Path, name: str, data: bytes, limit_bytes: int = 10 * MB) -> None:
    archive = scratch.parent / "archive"
    archive.write_bytes(data)
    unpack(archive, name, into=scratch, limit_bytes=limit_bytes)


@pytest.mark.parametrize("name", GOOD)
def test_archive_of_every_form_is_unpacked_s90_w30(scratch: Path, name: str) -> None:
    bring(scratch, name, GOOD[name]())

    assert (scratch / "pack/a.txt").read_bytes() == b"hello\n"
    assert os.access(scratch / "pack/bin/run.sh", os.X_OK)


@pytest.mark.parametrize("name", SINGLE)
def test_single_file_is_unpacked_without_its_suffix_w30(scratch: Path, name: str) -> None:
    bring(scratch, name, SINGLE[name]())

    assert (scratch / "data.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("name", ["a.txt", "tar", "a.tar.xz", "a.7z"])
def test_other_files_are_no_archives(name: str) -> None:
    assert form_of(name) is None


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused_and_nothing_outside_changes(scratch: Path, attack: str) -> None:
    name, make = ATTACKS[attack]

    with pytest.raises(UnpackFailed) as caught:
        bring(scratch, name, make())

    assert str(caught.value)
    assert sorted(path.name for path in scratch.parent.iterdir()) == ["archive", "secret", "work"]
    assert (scratch.parent / "secret").stat().st_nlink == 1
    assert not Path("/tmp/evil").exists()
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in scratch.rglob("*")}
    assert kinds <= {stat.S_IFREG, stat.S_IFDIR}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_ends_at_the_jobs_disk(scratch: Path, bomb: str) -> None:
    name, make = BOMBS[bomb]

    with pytest.raises(TooLarge, match="disk of 10 MB"):
        bring(scratch, name, make())

    assert sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) <= 10 * MB


def test_links_inside_are_made(scratch: Path) -> None:
    hard = entry("pack/again", b"1", "pack/a.txt")
    bring(scratch, "a.tar", tar("w", link("pack/bin/up", "../a.txt"), link("top", "pack"), hard))

    assert (scratch / "pack/bin/up").read_text() == (scratch / "top/a.txt").read_text() == "hello\n"
    assert (scratch / "pack/again").samefile(scratch / "pack/a.txt")


def test_modes_lose_setuid_and_directories_stay_open(scratch: Path) -> None:
    closed = entry("closed", b"5", mode=0o500)
    root = (entry("closed/root", mode=0o6755), b"x")
    bring(scratch, "a.tar", tar("w", closed, root))

    assert stat.S_IMODE((scratch / "closed/root").stat().st_mode) == 0o755
    assert stat.S_IMODE((scratch / "closed").stat().st_mode) == 0o700
    assert (scratch / "closed/root").stat().st_mtime == 1_600_000_000


def test_links_that_were_there_are_not_followed(scratch: Path) -> None:
    (scratch / "pack").symlink_to(scratch.parent)

    with pytest.raises(UnpackFailed, match="goes through a link"):
        bring(scratch, "a.tar", tar("w"))

    assert not (scratch.parent / "a.txt").exists()


def test_file_replaces_a_link_of_its_name(scratch: Path) -> None:
    (scratch / "pack").mkdir()
    (scratch / "pack/a.txt").symlink_to(scratch.parent / "secret")

    bring(scratch, "a.tar", tar("w"))

    assert (scratch.parent / "secret").read_text() == "secret"
    assert not (scratch / "pack/a.txt").is_symlink()
