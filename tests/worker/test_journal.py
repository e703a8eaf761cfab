"""The journal: entries once, sequence without gaps, one end each, whatever is called in whatever order."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.journal import Journal, State, never_started
from worker.protocol import AttemptKey, Claimed, Ended, EndReason, Started

KEY = AttemptKey(7, 1)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def finished(key: AttemptKey) -> Ended:
    return Ended(seq=0, key=key, reason=EndReason.FINISHED)


def all_events(journal: Journal) -> list[object]:
    return list(journal.events_after(0, max_count=10_000, max_bytes=1 << 30))


def test_second_entry_is_not_new(journal: Journal) -> None:
    assert journal.enter([KEY, KEY]) == [KEY]
    assert journal.enter([KEY]) == []


def test_entry_stays_after_acknowledged_end(journal: Journal) -> None:
    journal.enter([KEY])
    journal.end(finished(KEY))
    assert journal.acknowledge(1) == [KEY]
    assert journal.enter([KEY]) == []
    assert not journal.void(KEY, "")
    assert journal.held() == ()


def test_ends_of_long_ago_are_forgotten_and_no_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", kept_seq=10)
    keys = [AttemptKey(number, 1) for number in range(1, 41)]
    journal.enter(keys)
    for key in keys[1:]:
        journal.end(finished(key))
    journal.acknowledge(30)
    known = [key for key in keys if journal.state(key) is not None]
    assert known == [keys[0], *keys[21:]]
    assert len(journal.held()) == 1 + 9


def test_void_and_begin_exclude_each_other(journal: Journal) -> None:
    journal.enter([KEY])
    journal.claim([KEY], [], "")
    assert journal.begin(KEY)
    assert not journal.begin(KEY)
    assert not journal.give_up(KEY, "")
    assert not journal.void(KEY, "")


def test_given_up_entry_never_begins(journal: Journal) -> None:
    journal.enter([KEY])
    journal.claim([KEY], [], "")
    assert journal.give_up(KEY, "")
    assert not journal.begin(KEY)
    assert journal.state(KEY) is State.ENDED


def test_refused_claim_is_reported(journal: Journal) -> None:
    journal.enter([KEY])
    assert journal.claim([], [KEY], "gone") == []
    [ended] = journal.events_after(0, max_count=10, max_bytes=1000)
    assert isinstance(ended, Ended)
    assert ended.reason is EndReason.NEVER_STARTED


def test_reopened_journal_goes_on_counting(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.void(KEY, "")
    journal.acknowledge(1)
    journal.close()
    again = Journal(tmp_path / "journal.db")
    again.void(AttemptKey(8, 1), "")
    assert [event.seq for event in again.events_after(0, max_count=10, max_bytes=1000)] == [2]
    assert again.acknowledged == 1


def test_failed_change_leaves_no_gap(journal: Journal) -> None:
    def fail(_: object) -> None:
        journal._last += 5
        raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"):
        journal._write(fail)
    journal.void(KEY, "")
    assert journal.last_seq == 1


def test_many_threads_number_events_without_gap(journal: Journal) -> None:
    keys = [AttemptKey(number, 1) for number in range(200)]

    def work(mine: list[AttemptKey]) -> None:
        for key in mine:
            journal.enter([key])
            journal.claim([key], [], "")
            journal.report(key, [Started(seq=0, key=key)], told=0)
            journal.end(finished(key))

    threads = [threading.Thread(target=work, args=(keys[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = all_events(journal)
    assert [event.seq for event in events] == list(range(1, 601))  # type: ignore[attr-defined]
    for key in keys:
        kinds = [type(event) for event in events if event.key == key]  # type: ignore[attr-defined]
        assert kinds == [Claimed, Started, Ended]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["enter", "claim", "refuse", "begin", "report", "end", "give_up", "void", "ack"]
        ),
        st.integers(1, 3),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_any_order_of_calls_gives_one_end_and_no_start_after_it(
    actions: list[tuple[str, int]],
) -> None:
    journal = Journal(Path(":memory:"))
    seen: list[object] = []
    for name, number in actions:
        key = AttemptKey(number, 1)
        acknowledged = journal.acknowledged
        _call(journal, name, key)
        fresh = journal.events_after(acknowledged, max_count=100, max_bytes=1 << 20)
        seen += [event for event in fresh if event.seq > len(seen)]
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))  # type: ignore[attr-defined]
    for number in (1, 2, 3):
        mine = [event for event in seen if event.key.job == number]  # type: ignore[attr-defined]
        ends = [index for index, event in enumerate(mine) if isinstance(event, Ended)]
        assert ends in ([], [len(mine) - 1])
    journal.close()


def _call(journal: Journal, name: str, key: AttemptKey) -> None:
    calls: dict[str, Callable[[], object]] = {
        "enter": lambda: journal.enter([key]),
        "claim": lambda: journal.claim([key], [], ""),
        "refuse": lambda: journal.claim([], [key], ""),
        "begin": lambda: journal.begin(key),
        "report": lambda: journal.report(key, [Started(seq=0, key=key)], told=0),
        "end": lambda: journal.end(never_started(key, "")),
        "give_up": lambda: journal.give_up(key, ""),
        "void": lambda: journal.void(key, ""),
        # Up to half: the rest must still be seen by this test.
        "ack": lambda: journal.acknowledge(journal.last_seq // 2),
    }
    calls[name]()
