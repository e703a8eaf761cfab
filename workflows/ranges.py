"""Which chunks of a stage run: ordered ranges [first, last] of chunk numbers, as stored in `Stage.to_run`. Pure."""

from collections.abc import Iterable, Iterator, Sequence

CHUNK = 1000  # instances of a chunk at most; values are paged alike

Ranges = Sequence[Sequence[int]]


def all_chunks(size: int) -> list[list[int]]:
    """The chunks of a stage of `size` instances; [] for none."""
    return [[0, (size - 1) // CHUNK]] if size else []


def ranges_of(numbers: Iterable[int]) -> list[list[int]]:
    """Sorted numbers as ranges."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def count(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def numbers(ranges: Ranges) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)


def at(ranges: Ranges, position: int) -> int:
    """The chunk number at a position. Raises IndexError."""
    for first, last in ranges:
        if position <= last - first:
            return first + position
        position -= last - first + 1
    raise IndexError(position)


def position(ranges: Ranges, number: int) -> int:
    """The reverse of `at`. Raises ValueError."""
    before = 0
    for first, last in ranges:
        if first <= number <= last:
            return before + number - first
        before += last - first + 1
    raise ValueError(number)


def instances(number: int, size: int) -> range:
    """Instance numbers of a chunk of a stage of `size` instances."""
    return range(number * CHUNK, min((number + 1) * CHUNK, size))
