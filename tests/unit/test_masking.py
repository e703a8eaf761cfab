"""Secrets in output are masked wherever the stream is cut."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.masking import Mask, mask_for


def masked(pieces: list[bytes], *secrets: str) -> bytes:
    mask = mask_for(secrets)
    assert mask is not None
    return b"".join([*(mask.feed(piece) for piece in pieces), mask.finish()])


@pytest.mark.parametrize(
    ("pieces", "secrets", "shown"),
    [
        ([b"a hunter2 b\n"], ["hunter2"], b"a *** b\n"),
        ([b"hun", b"ter", b"2"], ["hunter2"], b"***"),
        ([b"hunter2hunter2"], ["hunter2"], b"******"),
        ([b"hunt", b"ing"], ["hunter2"], b"hunting"),
        ([b"abc", b"def!"], ["abc", "abcdef"], b"***!"),
        ([b"xab", b"c."], ["xab", "abc"], b"***."),
        ([b"aaaa", b"aaaa", b"b"], ["aaaa"], b"***b"),
        ([b"hunter"], ["hunter2"], b"hunter"),
        ([b"", b"x", b""], ["hunter2"], b"x"),
        ([b"line of a key\nmore"], ["line of a key\nend of it"], b"***\nmore"),
    ],
)
def test_secret_is_masked(pieces: list[bytes], secrets: list[str], shown: bytes) -> None:
    assert masked(pieces, *secrets) == shown


def test_what_cannot_be_a_secret_is_not_held_back() -> None:
    mask = Mask(frozenset({b"hunter2"}))
    assert mask.feed(b"password: ") == b"password: "
    assert mask.feed(b"hunt") == b""
    assert mask.feed(b"\n") == b"hunt\n"


def test_no_secrets_no_mask() -> None:
    assert mask_for([]) is None


@given(
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
    st.lists(st.text("ab.", max_size=6), max_size=8),
)
def test_cuts_change_nothing_and_no_secret_is_left(secrets: list[str], pieces: list[str]) -> None:
    cut = [piece.encode() for piece in pieces]
    shown = masked(cut, *secrets)
    assert shown == masked([b"".join(cut)], *secrets)
    # Between masks there is only what no secret touched.
    hidden: set[int] = set()
    text = "".join(pieces)
    for secret in secrets:
        for found in re.finditer(f"(?={re.escape(secret)})", text):
            hidden |= set(range(found.start(), found.start() + len(secret)))
    plain = "".join(c for at, c in enumerate(text) if at not in hidden)
    assert shown.replace(b"***", b"").decode() == plain
