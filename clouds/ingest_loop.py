"""The loop that reads the up-streams of all living nodes and hands them to `ingest.apply`.

Owns read positions, in memory only: what was applied before is known by its sequence numbers. Answers go out after
commit; streams are cut behind what was applied.
"""

import logging
import time
from collections.abc import Iterator, Sequence

import redis

from clouds import offers
from clouds.ingest import Heard, apply
from clouds.loops import Gathering
from clouds.models import Incarnation
from clouds.states import ALIVE
from prominence.bus import NODES, server_redis
from prominence.streams import Entry, read_streams
from worker.protocol import Keys, Up, decode_up, key_prefix

logger = logging.getLogger(__name__)

ENTRIES = 200  # per node and read
CHUNK_EVENTS = 2000  # per transaction
NEW_NODES_S = 1.0  # how long the list of nodes is good for when nobody rings


class Ingest:
    """One step applies what the last wait read."""

    name = "ingest"
    idle_s = 1.0

    def __init__(self) -> None:
        self._positions: dict[int, bytes] = {}
        self._listed = 0.0
        self._rung = b"0"
        self._read: dict[int, list[Entry]] = {}
        self._gathering = Gathering()

    def start(self) -> None:
        """Begin every stream at its start."""
        self._positions, self._read, self._listed = {}, {}, 0.0
        self._list_nodes()

    def _list_nodes(self) -> None:
        if time.monotonic() - self._listed < NEW_NODES_S:
            return
        self._listed = time.monotonic()
        alive = Incarnation.objects.filter(status__in=ALIVE).values_list("pk", flat=True)
        self._positions = {pk: self._positions.get(pk, b"0") for pk in alive}

    def wait(self, timeout_s: float) -> None:
        """Block until a node says something, at most `timeout_s`."""
        self._read = {}
        self._list_nodes()
        self._gathering.wait()
        streams = {Keys(key_prefix(pk)).up: last for pk, last in self._positions.items()}
        streams[NODES] = self._rung
        try:
            answer = read_streams(streams, count=ENTRIES, block_s=timeout_s)
        except redis.ResponseError:
            answer = _read_each(streams)
        if rung := answer.pop(NODES, None):
            self._rung = rung[-1][0]
            self._listed = 0.0
        self._read = {_incarnation(name): entries for name, entries in answer.items()}

    def step(self) -> None:
        """Apply what was read, answer, and cut the streams."""
        read, self._read = self._read, {}
        heard = {pk: Heard(read_ups(pk, entries)) for pk, entries in read.items()}
        for chunk in _chunks(heard):
            offers.tell(apply(chunk))
        if read:
            self._cut(read)
            self._gathering.handled(sum(len(mine.events()) for mine in heard.values()))

    def _cut(self, read: dict[int, list[Entry]]) -> None:
        pipe = server_redis().pipeline(transaction=False)
        for pk, entries in read.items():
            self._positions[pk] = entries[-1][0]
            pipe.xtrim(Keys(key_prefix(pk)).up, minid=_after(entries[-1][0]), approximate=False)
        pipe.execute(raise_on_error=False)


def _chunks(heard: dict[int, Heard]) -> Iterator[dict[int, Heard]]:
    """Whole incarnations, up to about CHUNK_EVENTS events together."""
    chunk: dict[int, Heard] = {}
    events = 0
    for pk, mine in heard.items():
        chunk[pk] = mine
        events += len(mine.events())
        if events >= CHUNK_EVENTS:
            yield chunk
            chunk, events = {}, 0
    if chunk:
        yield chunk


def _read_each(streams: dict[str, bytes]) -> dict[str, list[Entry]]:
    """One at a time, when one of them breaks reading them together."""
    answer: dict[str, list[Entry]] = {}
    for name, last in streams.items():
        try:
            answer |= read_streams({name: last}, count=ENTRIES, block_s=0.001)
        except redis.ResponseError as error:
            logger.error("%s cannot be read: %s", name, error)
    return answer


def _incarnation(stream: str) -> int:
    """The number in `n.<number>:up`."""
    return int(stream.partition(".")[2].partition(":")[0])


def _after(entry_id: bytes) -> str:
    """The smallest stream id behind this one."""
    milliseconds, sequence = (int(part) for part in entry_id.split(b"-"))
    if sequence == 2**64 - 1:
        return f"{milliseconds + 1}-0"
    return f"{milliseconds}-{sequence + 1}"


def read_ups(incarnation: int, entries: Sequence[Entry]) -> list[Up]:
    """The entries that can be understood."""
    ups = []
    for _, fields in entries:
        try:
            ups.append(decode_up(fields.get(b"d", b"")))
        except (
            ValueError,
            RecursionError,
            MemoryError,
        ) as error:  # msgspec's errors are ValueErrors
            logger.warning("incarnation %s sent something unreadable: %s", incarnation, error)
    return ups
