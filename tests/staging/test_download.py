"""Downloads: streamed, tried again, continued where they broke; a loopback server on the other side."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.staging.file_server import FileServer
from worker.staging import download
from worker.staging.download import Download, DownloadFailed, DownloadTooLarge

DATA = os.urandom(1 << 20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(download, "PAUSE_S", 0.001)
    with FileServer() as server:
        server.add("data", DATA)
        yield server


def fetch(server: FileServer, path: Path, name: str = "data", limit_bytes: int = 1 << 21) -> bytes:
    Download(server.url(name), path, limit_bytes=limit_bytes).fetch()
    return path.read_bytes()


def test_file_is_downloaded_s89(server: FileServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path / "x") == DATA
    assert server.requests == [""]


def test_broken_download_goes_on_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    server.breaks = [100_000, 0, 50_000]

    assert fetch(server, tmp_path / "x") == DATA
    assert server.requests == ["", "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_server_without_ranges_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.breaks = False, [100_000]

    assert fetch(server, tmp_path / "x") == DATA


def test_server_error_is_tried_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]

    assert fetch(server, tmp_path / "x") == DATA


def test_refusal_is_final(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [403]

    with pytest.raises(DownloadFailed, match="HTTP 403"):
        fetch(server, tmp_path / "x", "data?signature=hidden")
    assert len(server.requests) == 1


def test_server_that_never_answers_well_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503] * 9

    with pytest.raises(DownloadFailed, match="HTTP 503") as caught:
        fetch(server, tmp_path / "x", "data?signature=hidden")
    assert len(server.requests) == download.TRIES
    assert "hidden" not in str(caught.value)


def test_file_over_the_limit_is_not_taken(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadTooLarge):
        fetch(server, tmp_path / "x", limit_bytes=1000)
    assert (tmp_path / "x").stat().st_size <= 1000


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1:1/x"])
def test_unreachable_or_odd_address_fails(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.001)

    with pytest.raises(DownloadFailed):
        Download(url, tmp_path / "x", limit_bytes=1000).fetch()
