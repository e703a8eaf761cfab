"""Becoming a node: exchanging a one-time token, or the long-lived key, for the secrets of an incarnation.

The secrets are in one file, 0600. They hold for one boot id; after a reboot, a loss of the data directory
or a fence, only the key in them is of use, and buys a new incarnation.
"""

import logging
import socket
import time
from pathlib import Path

import msgspec

from worker.api import ApiError, NodeApi, Refused, Unauthorized
from worker.files import boottime, read_or_none, write_atomic
from worker.layout import DataDir
from worker.protocol import Capacity, Enrolment, EnrolRequest

logger = logging.getLogger(__name__)

RETRY_S = 1.0
MAX_RETRY_S = 30.0


class EnrolmentRefused(Exception):
    """The server takes neither our key nor our token. The text is safe to show."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The file `enrolment`. An empty `boot` marks a life that the server ended. All secret."""

    boot: str
    enrolment: Enrolment


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine says of itself."""

    boot: str
    capacity: Capacity
    runtimes: dict[str, str]
    isolated: bool


def read_record(data: DataDir) -> Record | None:
    """The last enrolment, whether it still holds or not."""
    content = read_or_none(data.enrolment)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=Record)
    except msgspec.MsgspecError:
        logger.error("%s is unreadable", data.enrolment)
        return None


def store_record(data: DataDir, record: Record) -> None:
    """Durable before it is relied on."""
    write_atomic(data.enrolment, msgspec.json.encode(record))


def current(data: DataDir, boot: str) -> Enrolment | None:
    """The enrolment of this very life, if it can go on: same boot id, journal still there."""
    record = read_record(data)
    if record is None or record.boot != boot:
        return None
    if not data.life(record.enrolment.incarnation).journal.exists():
        return None
    return record.enrolment


def end_life(data: DataDir) -> None:
    """Note that the server has ended this life; the key stays."""
    record = read_record(data)
    if record is not None:
        store_record(data, msgspec.structs.replace(record, boot=""))


def enrol(
    api: NodeApi, data: DataDir, asked: Asked, token_file: Path | None
) -> tuple[Enrolment, float]:
    """Ask until there is an answer; returns it with the CLOCK_BOOTTIME of the question.

    Does not store it: the caller does when the new life's directory is there. Raises EnrolmentRefused.
    """
    pause_s = RETRY_S
    while True:
        try:
            return _ask(api, _requests(data, asked, token_file))
        except ApiError as error:
            logger.warning("not enrolled yet: %s", error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_RETRY_S)


def _requests(data: DataDir, asked: Asked, token_file: Path | None) -> list[EnrolRequest]:
    """With the key if there is one, else, or if it is refused, with the token."""
    ways: list[dict[str, str]] = []
    record = read_record(data)
    if record is not None:
        ways.append({"key": record.enrolment.key})
    token = (read_or_none(token_file) or b"").decode().strip() if token_file else ""
    if token:
        ways.append({"token": token})
    return [
        EnrolRequest(
            boot=asked.boot,
            hostname=socket.gethostname(),
            capacity=asked.capacity,
            runtimes=asked.runtimes,
            isolated=asked.isolated,
            **way,  # type: ignore[arg-type]
        )
        for way in ways
    ]


def _ask(api: NodeApi, requests: list[EnrolRequest]) -> tuple[Enrolment, float]:
    refusal = "there is neither a key nor a token"
    for request in requests:
        sent_at = boottime()
        try:
            return api.enrol(request), sent_at
        except (Refused, Unauthorized) as error:
            refusal = str(error)
            logger.warning("enrolment by %s refused: %s", "key" if request.key else "token", error)
    raise EnrolmentRefused(refusal)
