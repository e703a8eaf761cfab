"""Reading server-sent events (WHATWG HTML, section 9.2), as an EventSource does."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServerSentEvent:
    """One event; `id` is the last id seen so far, as a client sends it back in Last-Event-ID."""

    event: str
    data: str
    id: str = ""

    def json(self) -> Any:
        return json.loads(self.data)


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """The events of a response body; comments are skipped, an event without its empty line is incomplete."""
    kind, data, last_id = "", [], ""
    for line in _lines(chunks):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerSentEvent(event=kind or "message", data="\n".join(data), id=last_id)
            kind, data = "", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode()
