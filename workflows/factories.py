"""What a factory makes of a template: values by instance number, lazily, and their substitution. Pure.

A sweep is a cross product of ranges, exact in decimal (X21): 0 to 0.3 by 0.1 is four values, and the last is `0.3`.
Instances are numbered from 0; the last parameter varies fastest. Columns (zip, table) are kept outside, in pages.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from math import prod
from typing import Any

from workflows.ranges import CHUNK

Value = int | float | str
PREFIX = "PROMINENCE_PARAMETER_"
# Doubles have 17 significant digits over 616 orders of magnitude: exact for whatever JSON numbers can say.
_EXACT = Context(prec=1400)
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_./:,=+%@-]+", re.ASCII)
_TASK_TEXTS = ("workdir", "stdout")
_DEEP_KEYS = ("artifacts", "outputFiles", "outputDirs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """`count` values from `start` in steps of `step`."""

    name: str
    start: Decimal
    step: Decimal
    count: int

    def at(self, index: int) -> Decimal:
        return _EXACT.add(self.start, _EXACT.multiply(self.step, Decimal(index)))


def count_steps(start: Decimal, end: Decimal, step: Decimal) -> int:
    """How many values there are from `start` to at most `end`, the end included; 0 when `step` leads away from it.

    `step` is not 0.
    """
    reach = _EXACT.subtract(end, start)
    if reach and (reach > 0) != (step > 0):
        return 0
    return int(_EXACT.divide_int(reach, step)) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Every combination of the values of its ranges (S132, S133)."""

    ranges: tuple[Range, ...]

    @property
    def count(self) -> int:
        return prod(r.count for r in self.ranges)

    def values(self, number: int) -> dict[str, Decimal]:
        """The parameters of one instance."""
        picked = {}
        for r in reversed(self.ranges):
            number, index = divmod(number, r.count)
            picked[r.name] = r.at(index)
        return {r.name: picked[r.name] for r in self.ranges}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """Identical instances (S135)."""

    count: int

    def values(self, number: int) -> dict[str, Decimal]:
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Values given one by one (S134, and tables): lists of equal length."""

    lists: Mapping[str, Sequence[Value]]

    @property
    def count(self) -> int:
        return len(next(iter(self.lists.values())))

    def page(self, number: int) -> dict[str, list[Value]]:
        """Columns of the instances `CHUNK * number` and on."""
        first = number * CHUNK
        return {name: list(values[first : first + CHUNK]) for name, values in self.lists.items()}


Factory = Sweep | Repeat | Columns


def stored_factory(factory: Factory) -> dict[str, Any]:
    """A small JSON form; the values of columns are not in it."""
    match factory:
        case Sweep():
            ranges = [[r.name, str(r.start), str(r.step), r.count] for r in factory.ranges]
            return {"type": "sweep", "ranges": ranges}
        case Repeat():
            return {"type": "repeat", "count": factory.count}
        case Columns():
            return {"type": "columns", "count": factory.count}


def read_factory(stored: Mapping[str, Any]) -> Sweep | Repeat | None:
    """The reverse of `stored_factory`; None for columns, whose values are elsewhere."""
    match stored["type"]:
        case "sweep":
            return Sweep(
                ranges=tuple(
                    Range(name=name, start=Decimal(start), step=Decimal(step), count=count)
                    for name, start, step, count in stored["ranges"]
                )
            )
        case "repeat":
            return Repeat(count=stored["count"])
    return None


def text_of(value: Value | Decimal) -> str:
    """As it appears in commands and variables: `0.3`, `4`, `0.00001`."""
    if isinstance(value, str):
        return value
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    plain = format(number, "f")
    return (plain.rstrip("0").rstrip(".") if "." in plain else plain) if number else "0"


def shown(value: Value | Decimal) -> Value:
    """As JSON shows it (C33b): a number where it is one."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def instantiate(
    template: Mapping[str, Any], values: Mapping[str, Value | Decimal]
) -> dict[str, Any]:
    """The stored form of one instance: `$x` and `${x}` replaced (S129, U16), PROMINENCE_PARAMETER_x set (S117)."""
    if not values:
        return dict(template)
    texts = {name: text_of(value) for name, value in values.items()}
    variables = {PREFIX + name: text for name, text in texts.items()}
    spec = dict(template) | {
        "tasks": [_task(task, texts, variables) for task in template["tasks"]],
        "parameters": {name: shown(value) for name, value in values.items()},
    }
    for key in _DEEP_KEYS:
        if key in spec:
            spec[key] = _deep(spec[key], texts)
    return spec


def _task(
    task: Mapping[str, Any], texts: Mapping[str, str], variables: Mapping[str, str]
) -> dict[str, Any]:
    made = dict(task) | {"env": {**task.get("env", {}), **variables}}
    if "cmd" in task:
        made["cmd"] = _command(task["cmd"], texts)
    if "args" in task:
        made["args"] = [substitute(word, texts) for word in task["args"]]
    for key in _TASK_TEXTS:
        if isinstance(task.get(key), str):
            made[key] = substitute(task[key], texts)
    return made


def _command(cmd: str, texts: Mapping[str, str]) -> str:
    """Substituted as text where no value could change how it splits into words, else word by word."""
    if all(_PLAIN.fullmatch(texts[name]) for name in references(cmd) if name in texts):
        return substitute(cmd, texts)
    return shlex.join(substitute(word, texts) for word in shlex.split(cmd))


def references(text: str) -> Iterable[str]:
    """Names that `text` refers to."""
    return (match[1] or match[2] for match in _REFERENCE.finditer(text))


def substitute(text: str, texts: Mapping[str, str]) -> str:
    """`$name` and `${name}` of known names replaced; everything else is left as it is."""
    return _REFERENCE.sub(lambda match: texts.get(match[1] or match[2], match[0]), text)


def _deep(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return substitute(value, texts)
    if isinstance(value, list):
        return [_deep(item, texts) for item in value]
    if isinstance(value, dict):
        return {key: _deep(item, texts) for key, item in value.items()}
    return value
