"""What processes cost, read from /proc: CPU seconds with their ended children, and memory (PSS)."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
Spent = dict[str, float]


def cpu_s(pid: int, *, with_ended: bool = True) -> float:
    """User and system seconds of a process, and of its children that it has waited for; 0.0 when it is gone.

    The kernel counts in ticks of 10 ms, but keeps the remainder: sums over seconds are exact enough.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()[11:15]
    return sum(map(int, fields if with_ended else fields[:2])) / TICKS


def children() -> dict[int, list[int]]:
    """The whole process table: children by parent. Zombies count: their CPU is nobody else's yet."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(entry.name))
    return found


def tree(pid: int, table: Mapping[int, list[int]]) -> list[int]:
    """A process and everything below it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo.extend(table.get(found[-1], ()))
    return found


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size of these processes, in MB of 2^20 bytes; the ended ones count nothing."""
    total_kb = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total_kb += sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
    return total_kb / 1024


def difference(after: Spent, before: Spent) -> Spent:
    return {name: max(0.0, value - before.get(name, 0.0)) for name, value in after.items()}
