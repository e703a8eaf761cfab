"""A client of the events endpoint, and what it makes of what it was told."""

import base64
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.sse import ServerSentEvent, read_events

TIMEOUT = httpx.Timeout(30)


class Refused(Exception):
    """Anything but a stream."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code} {response.text}")
        self.response = response


@dataclass
class Transcript:
    """Everything told, put together. Fails when a byte or a state comes twice, or one is left out."""

    states: list[str] = field(default_factory=list)
    logs: dict[tuple[int, str], bytearray] = field(default_factory=dict)
    cuts: list[tuple[int, str, int]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    end: dict[str, Any] | None = None

    def add(self, event: ServerSentEvent) -> None:
        data = event.json()
        self.order.append(event.event)
        assert self.end is None, "told something after the end"
        if event.event == "state":
            self.states.append(data["status"])
        elif event.event == "end":
            self.end = data
        elif data.get("cut"):
            self.cuts.append((data["attempt"], event.event, data["offset"]))
        else:
            log = self.logs.setdefault((data["attempt"], event.event), bytearray())
            assert data["offset"] == len(log), (data, bytes(log))
            log += base64.b64decode(data["base64"]) if "base64" in data else data["text"].encode()

    @classmethod
    def of(cls, events: Iterable[ServerSentEvent]) -> "Transcript":
        transcript = cls()
        for event in events:
            transcript.add(event)
        return transcript

    def text(self, stream: str = "stdout", attempt: int = 1) -> bytes:
        return bytes(self.logs.get((attempt, stream), b""))


@dataclass(frozen=True)
class Viewer:
    """Follows jobs at `site` as the owner of `token`."""

    site: str
    token: str

    def url(self, job: object) -> str:
        return f"{self.site}/api/v1/jobs/{job}/events"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @contextmanager
    def open(
        self, job: object, last_id: str = "", **params: str
    ) -> Iterator[Iterator[ServerSentEvent]]:
        headers = self.headers | ({"Last-Event-ID": last_id} if last_id else {})
        with httpx.stream(
            "GET", self.url(job), headers=headers, params=params, timeout=TIMEOUT
        ) as response:
            if response.status_code != 200:
                response.read()
                raise Refused(response)
            yield read_events(response.iter_raw())

    def get(self, job: object, last_id: str = "", **params: str) -> httpx.Response:
        headers = self.headers | ({"Last-Event-ID": last_id} if last_id else {})
        return httpx.get(self.url(job), headers=headers, params=params, timeout=TIMEOUT)

    def story(self, job: object, last_id: str = "", **params: str) -> list[ServerSentEvent]:
        """Everything until the response ends."""
        with self.open(job, last_id, **params) as events:
            return list(events)

    def some(self, job: object, count: int, last_id: str = "") -> list[ServerSentEvent]:
        """At most `count` events, then a disconnect."""
        told = []
        with self.open(job, last_id) as events:
            for event in events:
                told.append(event)
                if len(told) >= count:
                    break
        return told


class Watch:
    """A viewer in a thread; `transcript` grows meanwhile. With `break_every`, it disconnects and resumes that often."""

    def __init__(self, viewer: Viewer, job: object, *, break_every: int = 0) -> None:
        self.transcript = Transcript()
        self.error: BaseException | None = None
        self.breaks = 0
        self._viewer, self._job, self._break_every = viewer, job, break_every
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, timeout: float = 30) -> Transcript:
        """What was told, once the story has ended."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), self.transcript
        if self.error:
            raise self.error
        return self.transcript

    def _run(self) -> None:
        try:
            last_id = ""
            while self.transcript.end is None:
                with self._viewer.open(self._job, last_id) as events:
                    for count, event in enumerate(events, 1):
                        self.transcript.add(event)
                        last_id = event.id
                        if count == self._break_every:
                            self.breaks += 1
                            break
        except BaseException as error:  # noqa: BLE001 raised again by result()
            self.error = error
