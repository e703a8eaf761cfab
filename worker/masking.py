"""Masking secrets in a stream of bytes, wherever it is cut into chunks. Pure.

What could be the begin of a secret at the end of a chunk is held back until the next chunk, or the end, tells; so
at most one secret's length is ever held. Occurrences that overlap are masked together, as one.
"""

from collections.abc import Iterable

MASK = b"***"
MINIMUM_LINE = 8
"""Lines of a secret of several lines (a key file) are masked by themselves from this length on."""


def mask_for(secrets: Iterable[str]) -> "Mask | None":
    """A mask for these secrets; None when there are none, which costs nothing."""
    texts = [text for text in secrets if text]
    words = {text.encode() for text in texts}
    words |= {
        line.encode() for text in texts for line in text.splitlines() if len(line) >= MINIMUM_LINE
    }
    return Mask(frozenset(words)) if words else None


class Mask:
    """The state of one stream."""

    def __init__(self, secrets: frozenset[bytes]) -> None:
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._tail = b""
        self._covered = 0  # so many bytes of the tail are under a mask that was already put out

    def feed(self, data: bytes) -> bytes:
        """What may be shown now."""
        text = self._tail + data
        return self._show(text, self._undecided(text))

    def finish(self) -> bytes:
        """The rest: nothing follows any more."""
        return self._show(self._tail, len(self._tail))

    def _undecided(self, text: bytes) -> int:
        """Where the first secret begins that this text may have only a part of; its length if there is none."""
        found = len(text)
        for secret in self._secrets:
            at = text.find(secret[:1], max(0, len(text) - len(secret) + 1))
            while 0 <= at < found:
                if secret.startswith(text[at:]):
                    found = at
                at = text.find(secret[:1], at + 1)
        return found

    def _show(self, text: bytes, end: int) -> bytes:
        """Put out [0, end) masked and keep the rest."""
        spans = self._spans(text)
        at = spans.pop(0)[1] if self._covered else 0
        shown: list[bytes] = []
        for start, stop in spans:
            if start >= end:
                break
            shown += (text[at:start], MASK)
            at = stop
        shown.append(text[at:end])
        self._covered = max(0, at - end)
        self._tail = text[end:]
        return b"".join(shown)

    def _spans(self, text: bytes) -> list[tuple[int, int]]:
        """Where secrets are, overlapping ones merged, in order; first what is covered already."""
        spans = [(0, self._covered)] if self._covered else []
        for secret in self._secrets:
            at = text.find(secret)
            while at >= 0:
                spans.append((at, at + len(secret)))
                at = text.find(secret, at + 1)
        spans.sort()
        merged: list[tuple[int, int]] = []
        for start, stop in spans:
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return merged
