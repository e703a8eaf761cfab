"""What a heartbeat says, with another thread in between."""

from pathlib import Path
from typing import cast

import redis

from worker.api import NodeApi
from worker.files import boottime
from worker.journal import Journal
from worker.lines import Lines
from worker.protocol import AttemptKey, Heartbeat, Held, Keys, decode_up
from worker.up import Heart, Pulse, Uplink

KEY = AttemptKey(7, 1)


class BusyJournal(Journal):
    """While its snapshot is read, an attempt is claimed, and its event is sent at once."""

    uplink: Uplink

    def held(self) -> tuple[Held, ...]:
        before = super().held()
        self.enter([KEY])
        self.claim([KEY], [], "")
        self.uplink.advance(0, self.last_seq)
        return before


class Recorder:
    """A Redis that remembers heartbeats."""

    def __init__(self) -> None:
        self.beats: list[Heartbeat | None] = []

    def xadd(self, _name: str, fields: dict[str, bytes], **_options: object) -> None:
        self.beats.append(decode_up(fields["d"]).heartbeat)


def test_heartbeat_covers_no_event_that_its_snapshot_does_not_know(tmp_path: Path) -> None:
    journal = BusyJournal(tmp_path / "journal.db")
    client = Recorder()
    lines = Lines(
        client=cast(redis.Redis, client),
        keys=Keys("n.1:"),
        api=NodeApi("http://127.0.0.1:1", "token"),
        journal=journal,
    )
    journal.uplink = Uplink(journal)
    journal.uplink.answered_at = boottime() + 60
    pulse = Pulse(boot="boot-1", every_s=0.0, data=tmp_path)
    ignore = lambda *_: None  # noqa: E731
    Heart(lines, journal.uplink, pulse, on_word=ignore, on_unauthorized=ignore).step()
    [beat] = client.beats
    assert beat is not None
    assert journal.last_seq == 1
    assert (beat.held, beat.last_seq) == ((), 0)
