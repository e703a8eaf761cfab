"""What is found for `outputFiles` and `outputDirs`, whatever links a job leaves."""

import io
import tarfile
from pathlib import Path

import pytest

from worker.protocol import EndReason
from worker.runtimes.base import HOME
from worker.staging.outputs import Collected, Collector


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "private").mkdir()
    inner = tmp_path / "work"
    for name in ("a.txt", "b.txt", ".hidden.txt", "sub/c.txt", "sub/deep/d.txt", "odd[1].txt"):
        path = inner / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (inner / "out").symlink_to("/")
    (inner / "leak").symlink_to(tmp_path / "secret")
    (inner / "climb").symlink_to("../secret")
    (inner / "home").symlink_to(f"{HOME}/sub")
    (inner / "circle").symlink_to("circle")
    return inner


def collect(
    work: Path, files: list[str], directories: list[str], limit: int = 1 << 20
) -> Collected:
    collector = Collector(work=work, private=work.parent / "private", limit_bytes=limit)
    return collector.collect(tuple(files), tuple(directories))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "b.txt", "odd[1].txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("odd[1].txt", ["odd[1].txt"]),
        (".*.txt", [".hidden.txt"]),
        ("*/c.txt", ["sub/c.txt"]),
        ("sub/**", ["sub/c.txt", "sub/deep/d.txt"]),
        ("**/d.txt", ["sub/deep/d.txt"]),
        ("home/c.txt", ["home/c.txt"]),
        ("./sub/../a.txt", ["./sub/../a.txt"]),
    ],
)
def test_every_match_is_found_s91_u15(work: Path, pattern: str, names: list[str]) -> None:
    found = collect(work, [pattern], [])

    assert [output.name for output in found.outputs] == names
    assert found.reason is None


@pytest.mark.parametrize(
    "pattern",
    ["none", "*.dat", "leak", "climb", "out/etc/passwd", "out/**/passwd", "circle", "sub", "out/*"],
)
def test_what_is_not_the_jobs_is_not_there(work: Path, pattern: str) -> None:
    found = collect(work, [pattern, "a.txt"], [])

    assert [output.name for output in found.outputs] == ["a.txt"]
    assert (found.reason, found.detail) == (EndReason.OUTPUT_MISSING, f"{pattern}: not found")


def test_directory_becomes_an_archive_u15(work: Path) -> None:
    (output,) = collect(work, [], ["sub/deep"]).outputs

    data = (work.parent / "private" / output.path.decode()).read_bytes()
    assert (output.directory, output.size) == (True, len(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["deep", "deep/d.txt"]


def test_directory_outside_is_not_archived(work: Path) -> None:
    assert collect(work, [], ["out"]).reason is EndReason.OUTPUT_MISSING


def test_large_file_is_refused_and_others_kept(work: Path) -> None:
    found = collect(work, ["a.txt", "sub/deep/d.txt"], ["sub"], limit=8)

    assert [output.name for output in found.outputs] == ["a.txt"]
    assert found.reason is EndReason.OUTPUT_TOO_LARGE
