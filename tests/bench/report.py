"""Figures for people: the table of a run, beside the last kept one, and `docs/performance.md`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import Figure, read_figures
from tests.bench.state import KEPT

WORDS = {True: "reached", False: "MISSED", None: ""}


def table(figures: Sequence[Figure], kept: Sequence[Figure]) -> str:
    """Plain text, one line a figure."""
    old = {figure.key: figure for figure in kept}
    lines = [_line(figure, old.get(figure.key)) for figure in figures]
    return "".join(f"{line}\n" for line in lines)


def _line(figure: Figure, old: Figure | None) -> str:
    parts = [f"{figure.key:<68} {value_text(figure):>22}"]
    parts += [f"goal {figure.goal}: {WORDS[figure.is_reached]}"] if figure.goal else []
    parts += [f"kept {old.value:g}"] if old and old.value is not None else []
    parts += [f"({figure.note})"] if figure.note else []
    return "  ".join(parts)


def value_text(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    spread = ""
    if figure.low is not None and figure.high is not None and figure.samples > 1:
        spread = f" ({figure.low:g}..{figure.high:g})"
    return f"{figure.value:g} {figure.unit}{spread}"


def keep(figures: Path) -> None:
    """Make this run the one that later ones are compared with."""
    KEPT.mkdir(exist_ok=True)
    shutil.copy(figures, KEPT / "figures.jsonl")
    read_figures(KEPT / "figures.jsonl")
