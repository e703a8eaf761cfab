"""Figures for people: the table of a run, beside the last kept one, and `docs/performance.md` with its pictures.

Figures of the kept run and of the one before it are in `docs/performance/`; what a person has to say about missed
goals is there too, in `notes.md`, and is taken into the page.
"""

import json
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tests.bench import pictures
from tests.bench.figures import Figure, read_figures
from tests.bench.state import KEPT, PAGE, STATE

WORDS = {True: "reached", False: "**missed**", None: ""}
SHOWS = {
    "throughput": "1. A backlog of trivial jobs",
    "latency": "2. Latency on an idle node",
    "post": "3. POST /jobs",
    "history": "4. A long history and a long queue",
    "output": "5. Output",
    "containers": "6. Containers",
    "memory": "7. Memory",
    "growth": "8. Growth",
    "profile": "Where a job's milliseconds go",
}
HEAD = """# Performance

Written by `make bench KEEP=1`; do not edit. Each benchmark runs in turns with its peers on the same machine: PostgreSQL
with fsync, Redis with its append-only file (everysec), one API process, one control plane, one node with two slots,
full history and events; trivial jobs through the `process` runtime. Value: the median, with the lowest and highest of
the rounds. CPU is from `/proc`, ended children included; memory is PSS in MB of 2^20 bytes. "Before": the run that was
kept before this one. Raw figures: [figures.jsonl](performance/figures.jsonl).
"""


def table(figures: Sequence[Figure], kept: Sequence[Figure]) -> str:
    """Plain text, one line a figure."""
    old = {figure.key: figure for figure in kept}
    return "".join(f"{_line(figure, old.get(figure.key))}\n" for figure in figures)


def _line(figure: Figure, old: Figure | None) -> str:
    parts = [f"{figure.key:<68} {_value(figure):>22}"]
    parts += [f"goal {figure.goal}: {WORDS[figure.is_reached].strip('*')}"] if figure.goal else []
    parts += [f"kept {old.value:g}"] if old and old.value is not None else []
    parts += [f"({figure.note})"] if figure.note else []
    return "  ".join(parts)


def _value(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    spread = ""
    if figure.low is not None and figure.high is not None and figure.samples > 1:
        spread = f" ({figure.low:g} to {figure.high:g})"
    return f"{figure.value:g} {figure.unit}{spread}"


def keep(figures: Path, surroundings: Path) -> None:
    """Make this run the one that later ones are compared with, and write the page."""
    KEPT.mkdir(exist_ok=True)
    kept = KEPT / "figures.jsonl"
    if kept.exists():
        kept.replace(KEPT / "before.jsonl")
    shutil.copy(figures, kept)
    shutil.copy(surroundings, KEPT / "surroundings.json")
    if (STATE / "profiles").exists():
        shutil.rmtree(KEPT / "profiles", ignore_errors=True)
        (KEPT / "profiles").mkdir()
        for stacks in sorted((STATE / "profiles").glob("*.txt")):
            shutil.copy(stacks, KEPT / "profiles" / stacks.name)
    write_page()


def write_page() -> None:
    """`docs/performance.md` and its pictures, from what is kept."""
    figures = read_figures(KEPT / "figures.jsonl")
    old = {figure.key: figure for figure in read_figures(KEPT / "before.jsonl")}
    around = json.loads((KEPT / "surroundings.json").read_text())
    notes = KEPT / "notes.md"
    parts = [HEAD, _goals(figures), notes.read_text() if notes.exists() else ""]
    for bench, mine in groupby(figures, key=lambda figure: figure.bench):
        parts.append(_section(bench, list(mine), old))
    facts = "".join(f"| {name} | {value} |\n" for name, value in around.items())
    parts.append(f"## The machine\n\n| | |\n|---|---|\n{facts}")
    PAGE.write_text("\n".join(part.rstrip("\n") + "\n" for part in parts if part))


def _goals(figures: Sequence[Figure]) -> str:
    lines = [
        f"| {f.bench} | {f.name} | {_value(f)} | {f.goal} | {WORDS[f.is_reached]}{_by(f)} |\n"
        for f in figures
        if f.goal
    ]
    rows = "".join(lines)
    return f"## Goals\n\n| | | value | goal | |\n|---|---|---|---|---|\n{rows}"


def _by(figure: Figure) -> str:
    """How far off a missed goal is."""
    if figure.is_reached is not False or figure.value is None:
        return ""
    limit = float(figure.goal.lstrip("<>="))
    return f" by {abs(figure.value - limit):.3g} {figure.unit}".rstrip()


def _section(bench: str, figures: Sequence[Figure], old: dict[str, Figure]) -> str:
    lines = [f"## {SHOWS.get(bench, bench)}\n"]
    for number, svg in enumerate(_pictures(bench, figures), start=1):
        name = f"{bench}-{number}.svg"
        (KEPT / name).write_text(svg)
        lines.append(f"![{SHOWS.get(bench, bench)}](performance/{name})\n")
    lines.append("| | value | before | load | |\n|---|---|---|---|---|")
    for figure in figures:
        before = old.get(figure.key)
        was = f"{before.value:g}" if before and before.value is not None else ""
        lines.append(
            f"| {figure.name} | {_value(figure)} | {was} | {figure.load:g} | {figure.note} |"
        )
    return "\n".join(lines) + "\n"


def _pictures(bench: str, figures: Sequence[Figure]) -> list[str]:
    """One for each unit among the curves, and one of CPU per job by part."""
    drawn = []
    curved = [figure for figure in figures if len(figure.series) > 1]
    for unit in dict.fromkeys(figure.unit for figure in curved):
        lines = {
            f.name.removeprefix("PSS after jobs: "): f.series for f in curved if f.unit == unit
        }
        drawn.append(pictures.curves(SHOWS.get(bench, bench), "", unit, lines))
    stacks: dict[str, dict[str, float]] = {}
    for figure in figures:
        name, found, part = figure.name.partition(", CPU per job: ")
        if found and figure.value is not None and (part != "all" or _is_peer(name)):
            stacks.setdefault(_short(name), {})[part] = figure.value
    if stacks:
        drawn.append(pictures.bars("CPU per job by part", "ms", stacks))
    return drawn


def _is_peer(name: str) -> bool:
    return not name.endswith("jobs")


def _short(name: str) -> str:
    return name.replace("bare ", "").replace(", ten per message", " x10")
