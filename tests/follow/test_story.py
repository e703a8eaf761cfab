"""Cursors, messages and tails: pure parts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.follow import Tail
from jobs.models import Stream
from jobs.story import BadCursor, Cursor, Message, Position, whole_characters

_positions = st.builds(Position, st.integers(0, 10**18 - 1), st.booleans())
_cursors = st.builds(
    Cursor,
    event=st.integers(0, 10**18 - 1),
    attempt=st.integers(0, 10**9 - 1),
    positions=st.dictionaries(
        st.tuples(st.integers(0, 5), st.sampled_from(Stream.values)), _positions
    ),
    ended=st.booleans(),
)


@given(_cursors)
def test_cursor_survives_its_text(cursor: Cursor) -> None:
    again = Cursor.parse(str(cursor))
    assert (again.event, again.attempt, again.ended) == (
        cursor.event,
        cursor.attempt,
        cursor.ended,
    )
    for key, position in cursor.positions.items():
        assert again.at(*key) == position
    assert str(again) == str(cursor)


@given(st.text(max_size=30))
def test_cursor_of_any_text_is_good_or_refused(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except BadCursor:
        return
    assert Cursor.parse(str(cursor)) == cursor


@given(st.text(), st.integers(0, 3))
def test_whole_characters_cuts_only_a_beginning(text: str, missing: int) -> None:
    data = text.encode()
    data = data[: len(data) - missing] if missing else data
    whole = whole_characters(data)
    assert data.startswith(whole)
    assert len(data) - len(whole) <= 3
    whole.decode()


@given(st.binary())
def test_whole_characters_of_anything_leaves_at_most_three_bytes(data: bytes) -> None:
    whole = whole_characters(data)
    assert data.startswith(whole)
    assert len(data) - len(whole) <= 3


@given(st.text())
def test_message_is_three_lines_whatever_the_text(text: str) -> None:
    encoded = Message(event="stdout", data={"text": text}, id="1.1").encode().decode()
    assert len(encoded.splitlines()) == 4
    assert json.loads(encoded.splitlines()[2].removeprefix("data: ")) == {"text": text}


@given(
    st.lists(st.integers(1, 50), max_size=20), st.integers(1, 100), st.integers(0, 400),
    st.integers(1, 100),
)  # fmt: skip
def test_tail_answers_exactly_or_not_at_all(
    sizes: list[int], room: int, offset: int, limit: int
) -> None:
    tail, written = Tail("key", 0), bytearray()
    for number, size in enumerate(sizes):
        written += bytes([number]) * size
        tail.feed(len(written) - size, bytes([number]) * size, room=room)
    answer = tail.read(offset, limit)
    assert answer is None or answer == written[offset : offset + limit]
    assert (answer is None) == (offset < tail.begin)
    assert tail.end == len(written)
    assert tail.end - tail.begin <= max(room, max(sizes, default=0))


def test_tail_begins_anew_after_a_hole() -> None:
    tail = Tail("key", 0)
    tail.feed(0, b"ab", room=10)
    tail.feed(5, b"fg", room=10)
    assert tail.read(2, 10) is None
    assert tail.read(5, 10) == b"fg"


def test_tail_takes_overlaps_once() -> None:
    tail = Tail("key", 0)
    tail.feed(0, b"abc", room=10)
    tail.feed(0, b"abc", room=10)
    tail.feed(1, b"bcde", room=10)
    assert tail.read(0, 10) == b"abcde"


@pytest.mark.parametrize("text", ["", "1", "1.", "1.1.", "1.1.1", "1.1.c.0", " 1.1", "1.1\n"])
def test_malformed_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.parse(text)
