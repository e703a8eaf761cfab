"""Redis streams with types: entries as (id, fields), whatever the protocol version answers.

Owns nothing; a thin reading over `bus.server_redis`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prominence.bus import server_redis

Entry = tuple[bytes, dict[bytes, bytes]]


def read_streams(
    positions: Mapping[str, bytes], *, count: int, block_s: float
) -> dict[str, list[Entry]]:
    """New entries behind `positions`, as soon as there are some; {} after `block_s`. Raises redis.RedisError."""
    answer: Any = server_redis().xread(
        dict(positions),  # type: ignore[arg-type]
        count=count,
        block=max(1, int(block_s * 1000)),
    )
    if not answer:
        return {}
    if isinstance(answer, dict):  # RESP3: {name: [pages]}
        pairs = [(name, [e for page in found for e in page]) for name, found in answer.items()]
    else:
        pairs = [(name, list(found)) for name, found in answer]
    return {name.decode(): entries for name, entries in pairs if entries}


def walk_stream(name: str, *, after: str, page: int) -> Iterator[Entry]:
    """All entries behind the id `after`, read in pages. Raises redis.RedisError."""
    while True:
        found: Any = server_redis().xrange(name, min=f"({after}", count=page)
        if not found:
            return
        yield from found
        after = found[-1][0].decode()


def last_id(name: str) -> bytes:
    """The id of the newest entry, b"0-0" when there is none. Raises redis.RedisError."""
    found: Any = server_redis().xrevrange(name, count=1)
    return found[0][0] if found else b"0-0"


class Doorbell:
    """Waiting for new entries of one stream of the bus, each seen once."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._last = b"$"

    def seek_end(self) -> None:
        """Forget what was rung before now."""
        self._last = last_id(self._stream)

    def wait(self, timeout_s: float) -> list[bytes]:
        """Payloads of new entries, as soon as there are some; [] after `timeout_s`."""
        read = read_streams({self._stream: self._last}, count=1000, block_s=timeout_s)
        entries = read.get(self._stream, [])
        if entries:
            self._last = entries[-1][0]
        return [fields[b"d"] for _, fields in entries if b"d" in fields]
