"""Files that jobs leave: taken from nodes piece by piece, and given to whoever holds a signed address.

Owns `OutputFile` rows and their objects. A file is stored in pieces of OUTPUT_PIECE_BYTES, so that a broken transfer
goes on where it was and no request is large; its row is written when the last piece is there. Everything carries the
attempt's number, and what a dead attempt left stays its own.

An address (`/outputs/ID/NAME?expires=…&signature=…`) opens one file to everybody who has it, until it expires; it is
signed with the server's secret key and stored nowhere.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from django.conf import settings
from django.core.signing import Signer
from django.db.models import Sum
from django.utils.crypto import constant_time_compare

from jobs.models import Job, OutputFile
from jobs.objects import ObjectMissing, object_store
from worker.protocol import MAXIMUM_OUTPUT_FILES, OUTPUT_PIECE_BYTES

_SALT = "prominence.outputs"
_HOUR_S = 3600
_MAXIMUM_NAME = 4096


class OutputRefused(Exception):
    """A piece that cannot be taken, however often it is sent."""


class OutputTooLarge(OutputRefused):
    """The file, or all files of the attempt together, are over a limit."""


class PieceMissing(Exception):
    """The last piece came, but `offset` did not: send from there."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the piece at {offset} is missing")
        self.offset = offset


class NotSigned(Exception):
    """No such address: wrong signature, expired, or no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPiece:
    """`data` at `offset` of a file of `size` bytes; `number` tells the attempt's files apart."""

    job_id: int
    attempt: int
    rank: int
    number: int
    name: str
    directory: bool
    size: int
    offset: int
    data: bytes


def store_output(piece: OutputPiece) -> None:
    """Keep a piece; with the last one the file exists. Idempotent. Call it outside of a transaction.

    Raises:
        OutputRefused: the piece or its file cannot be taken.
        PieceMissing: an earlier piece has to be sent again.
        ObjectStoreError: try again later.
    """
    _check(piece)
    object_store().put(_key(piece, piece.offset), piece.data)
    if piece.offset + len(piece.data) < piece.size:
        return
    _require_all(piece)
    OutputFile.objects.bulk_create(
        [
            OutputFile(
                job_id=piece.job_id,
                attempt=piece.attempt,
                rank=piece.rank,
                number=piece.number,
                name=piece.name,
                directory=piece.directory,
                size=piece.size,
            )
        ],
        ignore_conflicts=True,
    )


def _check(piece: OutputPiece) -> None:
    limits = settings.CONFIG
    if not piece.name or len(piece.name) > _MAXIMUM_NAME or "\0" in piece.name:
        raise OutputRefused("a name has 1 to 4096 characters without NUL")
    if not 0 <= piece.number < MAXIMUM_OUTPUT_FILES:
        raise OutputTooLarge(f"an attempt has at most {MAXIMUM_OUTPUT_FILES} output files")
    expected = min(OUTPUT_PIECE_BYTES, piece.size - piece.offset)
    if piece.offset % OUTPUT_PIECE_BYTES or piece.offset < 0 or len(piece.data) != expected:
        raise OutputRefused(f"pieces have {OUTPUT_PIECE_BYTES} bytes, the last one what is left")
    if piece.size > limits.output_file_bytes:
        raise OutputTooLarge(f"an output file has at most {limits.output_file_bytes} bytes")
    others = OutputFile.objects.filter(job=piece.job_id, attempt=piece.attempt, rank=piece.rank)
    stored = others.exclude(number=piece.number).aggregate(sum=Sum("size"))["sum"] or 0
    if stored + piece.size > limits.output_job_bytes:
        raise OutputTooLarge(f"a job's output files have at most {limits.output_job_bytes} bytes")


def _require_all(piece: OutputPiece) -> None:
    store = object_store()
    for offset in range(0, piece.offset, OUTPUT_PIECE_BYTES):
        try:
            if store.size(_key(piece, offset)) == OUTPUT_PIECE_BYTES:
                continue
        except ObjectMissing:
            pass
        raise PieceMissing(offset)


def _key(file: OutputPiece | OutputFile, offset: int) -> str:
    """The size is part of it: a file that was collected anew never mixes with what was sent before."""
    place = f"{file.job_id}/{file.attempt}.{file.rank}/{file.number}"
    return f"outputs/{place}/{file.size}-{offset}"


def signed_url(file: OutputFile) -> str:
    """An absolute address that needs no token (C35), good for at least `output_url_s`; it changes once an hour."""
    expires = (int(time.time() + settings.CONFIG.output_url_s) // _HOUR_S + 1) * _HOUR_S
    name = quote(shown_name(file).rsplit("/", 1)[-1], safe="")
    query = f"expires={expires}&signature={_signature(file.pk, expires)}"
    return f"{settings.CONFIG.public_url}/outputs/{file.pk}/{name}?{query}"


def shown_name(file: OutputFile) -> str:
    """A directory is saved as an archive (U15)."""
    return f"{file.name}.tgz" if file.directory else file.name


def open_signed(file_id: str, expires: str, signature: str) -> OutputFile:
    """The file that a signed address names.

    Raises:
        NotSigned: that is no address of ours, or not any more.
    """
    plain = all(text.isascii() and text.isdigit() and len(text) < 19 for text in (file_id, expires))
    if not plain or not constant_time_compare(signature, _signature(int(file_id), int(expires))):
        raise NotSigned
    if int(expires) < time.time():
        raise NotSigned
    file = OutputFile.objects.filter(pk=int(file_id)).first()
    if file is None:
        raise NotSigned
    return file


def _signature(file_id: int, expires: int) -> str:
    return Signer(salt=_SALT).signature(f"{file_id}:{expires}")


def read_output_file(file: OutputFile, start: int = 0) -> Iterator[bytes]:
    """The file's bytes from `start`, in blocks.

    Raises:
        ObjectMissing, ObjectStoreError: at the first block, or on the way.
    """
    store = object_store()
    while start < file.size:
        offset = start - start % OUTPUT_PIECE_BYTES
        for block in store.open_range(_key(file, offset), start - offset):
            start += len(block)
            yield block
        if start < min(offset + OUTPUT_PIECE_BYTES, file.size):
            raise ObjectMissing(_key(file, offset))


def output_files_of(jobs: list[Job]) -> dict[int, list[OutputFile]]:
    """What the current attempts of these jobs left, by job, in order: one query."""
    wanted = {job.pk: job.attempt for job in jobs if leaves_files(job)}
    if not wanted:
        return {}
    found: dict[int, list[OutputFile]] = {}
    for file in OutputFile.objects.filter(job__in=wanted, rank=0).order_by("job", "number"):
        if file.attempt == wanted[file.job_id]:
            found.setdefault(file.job_id, []).append(file)
    return found


def leaves_files(job: Job) -> bool:
    return bool(job.spec.get("outputFiles") or job.spec.get("outputDirs"))


def shown_outputs(
    job: Job, files: list[OutputFile], *, directories: bool
) -> list[dict[str, object]]:
    """As describe lists them (C31, U15): names with addresses, and with an empty one what is not there (yet)."""
    patterns = job.spec.get("outputDirs" if directories else "outputFiles", ())
    mine = [file for file in files if file.directory == directories]
    shown: list[dict[str, object]] = [
        {"name": file.name, "url": signed_url(file), "size": file.size} for file in mine
    ]
    if not mine:
        shown = [{"name": pattern, "url": ""} for pattern in patterns]
    return shown
