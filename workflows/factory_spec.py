"""The factories of a workflow document, checked strictly: sweep, zip, repeat and table (S131-S137, C54).

Owns their fields and limits. A table is our own: rows given inline, or as a CSV file among the `inputs` of a job that
the factory is applied to, with the parameter names in its first line. Pure.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
)

from jobs.fields import reject
from prominence.errors import Problem
from workflows.factories import Columns, Factory, Range, Repeat, Sweep, Value, count_steps
from workflows.refusals import Path, problem, problems_of, shown

MAXIMUM_INSTANCES = 10_000_000
MAXIMUM_PARAMETERS = 100
MAXIMUM_VALUE = 1024
TYPES = "parameterSweep, zip, repeat and table"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parameter_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise reject(
            "parameter",
            f"parameter name {json.dumps(value[:80])} is invalid: 1 to 64 letters, digits and _ are"
            " allowed, not beginning with a digit",
        )
    return value


def decimal_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise reject("type", f"the limits of a sweep must be numbers, not {shown(value)}")
    return Decimal(repr(value))


def plain_values(values: object) -> object:
    """Checked in place: there may be a million of them."""
    if not isinstance(values, list):
        raise reject("type", f'"values" must be a list of numbers and texts, not {shown(values)}')
    if not values:
        raise reject("empty", "the values of a parameter must not be empty")
    for index, value in enumerate(values):
        if wrong := wrong_value(value):
            raise reject("value", f"value {index} {wrong}")
    return values


def wrong_value(value: object) -> str:
    """What is wrong with a value, or nothing."""
    if isinstance(value, str):
        if len(value) > MAXIMUM_VALUE or _CONTROL.search(value):
            return f"must have at most {MAXIMUM_VALUE} characters and no control characters"
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"must be a number or a text, not {shown(value)}"
    return ""


def some_parameters(value: object) -> object:
    if isinstance(value, list) and not 0 < len(value) <= MAXIMUM_PARAMETERS:
        raise reject("count", f"a factory must have 1 to {MAXIMUM_PARAMETERS} parameters")
    return value


ParameterName = Annotated[StrictStr, AfterValidator(parameter_name)]
Number = Annotated[Decimal, BeforeValidator(decimal_number)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Factory(_Model):
    type: StrictStr
    name: StrictStr = ""
    jobs: tuple[StrictStr, ...] | None = None


class SweepParameter(_Model):
    name: ParameterName
    start: Number
    end: Number
    step: Number


class SweepDocument(_Factory):
    """`parameterSweep`, in old documents `parametricSweep` (S137)."""

    parameters: Annotated[tuple[SweepParameter, ...], BeforeValidator(some_parameters)]


class ZipParameter(_Model):
    name: ParameterName
    values: Annotated[Any, AfterValidator(plain_values)]


class ZipDocument(_Factory):
    parameters: Annotated[tuple[ZipParameter, ...], BeforeValidator(some_parameters)]


class RepeatDocument(_Factory):
    """A published client says `num` (C54)."""

    number: Annotated[StrictInt, Field(ge=1, validation_alias=AliasChoices("number", "num"))]


class TableDocument(_Factory):
    rows: Any = None
    file: StrictStr = ""


DOCUMENTS: dict[str, type[_Factory]] = {
    "parameterSweep": SweepDocument,
    "parametricSweep": SweepDocument,
    "zip": ZipDocument,
    "repeat": RepeatDocument,
    "table": TableDocument,
}


def parse_factory(
    document: object, at: Path, files: Mapping[str, bytes], problems: list[Problem]
) -> tuple[_Factory, Factory] | None:
    """A factory and what it makes; None when something is wrong with it, which is then in `problems`.

    files: contents of the input files that a table may name.
    """
    if not isinstance(document, dict):
        problems.append(
            problem(at, "type", f"a factory must be a JSON object, not {shown(document)}")
        )
        return None
    kind = document.get("type")
    model = DOCUMENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        code = "value" if "type" in document else "missing"
        problems.append(problem((*at, "type"), code, f"invalid factory type: {TYPES} are allowed"))
        return None
    try:
        parsed = model.model_validate(document)
    except ValidationError as error:
        problems += problems_of(error, at)
        return None
    before = len(problems)
    factory = _build(parsed, at, files, problems)
    if factory is not None and factory.count > MAXIMUM_INSTANCES:
        text = f"{factory.count:.3g}" if factory.count < 10**15 else "far too many"
        message = f"a factory may make at most {MAXIMUM_INSTANCES} jobs, not {text}"
        problems.append(problem(at, "tooMany", message))
    return (parsed, factory) if factory is not None and len(problems) == before else None


def _build(
    parsed: _Factory, at: Path, files: Mapping[str, bytes], problems: list[Problem]
) -> Factory | None:
    match parsed:
        case SweepDocument():
            return _sweep(parsed, at, problems)
        case ZipDocument():
            return _zip(parsed, at, problems)
        case RepeatDocument():
            return Repeat(count=parsed.number)
        case TableDocument():
            return _table(parsed, at, files, problems)
    return None


def _sweep(parsed: SweepDocument, at: Path, problems: list[Problem]) -> Factory | None:
    names = [parameter.name for parameter in parsed.parameters]
    problems += _doubled(names, at)
    ranges = []
    for index, p in enumerate(parsed.parameters):
        where = (*at, "parameters", index, "step")
        if not p.step:
            problems.append(problem(where, "range", "the step of a sweep must not be 0"))
            continue
        count = count_steps(p.start, p.end, p.step)
        if not count:
            message = f"a step of {p.step} does not lead from {p.start} to {p.end}"
            problems.append(problem(where, "range", message))
            continue
        ranges.append(Range(name=p.name, start=p.start, step=p.step, count=count))
    return Sweep(ranges=tuple(ranges)) if len(ranges) == len(names) else None


def _zip(parsed: ZipDocument, at: Path, problems: list[Problem]) -> Factory | None:
    problems += _doubled([parameter.name for parameter in parsed.parameters], at)
    lengths = [len(parameter.values) for parameter in parsed.parameters]
    for index, length in enumerate(lengths):
        if length != lengths[0]:
            message = (
                "all parameters must be lists of values of the same length:"
                f" {length} here, {lengths[0]} in the first"
            )
            problems.append(problem((*at, "parameters", index, "values"), "length", message))
    return Columns(lists={p.name: p.values for p in parsed.parameters})


def _table(
    parsed: TableDocument, at: Path, files: Mapping[str, bytes], problems: list[Problem]
) -> Factory | None:
    if (parsed.rows is None) == (not parsed.file):
        message = "a table must contain either rows or the name of a CSV file"
        problems.append(problem((*at, "rows"), "missing", message))
        return None
    if parsed.file:
        return _csv_table(parsed.file, (*at, "file"), files, problems)
    return _inline_table(parsed.rows, (*at, "rows"), problems)


def _csv_table(
    name: str, at: Path, files: Mapping[str, bytes], problems: list[Problem]
) -> Factory | None:
    if name not in files:
        message = f"{shown(name)} is not among the inputs of the jobs of this factory"
        problems.append(problem(at, "unknown", message))
        return None
    try:
        lines = list(csv.reader(io.StringIO(files[name].decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        problems.append(problem(at, "csv", f"{shown(name)} is not a CSV file in UTF-8: {error}"))
        return None
    header, *rows = [line for line in lines if line] or [[]]
    return _columns([h.strip() for h in header], rows, at, problems)


def _inline_table(rows: object, at: Path, problems: list[Problem]) -> Factory | None:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problems.append(problem(at, "type", '"rows" must be a list of JSON objects'))
        return None
    header = list(rows[0]) if rows else []
    for index, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            message = "all rows of a table must have the same names"
            problems.append(problem((*at, index), "columns", message))
            return None
    return _columns(header, [[row[name] for name in header] for row in rows], at, problems)


def _columns(
    header: Sequence[str], rows: Sequence[Sequence[Any]], at: Path, problems: list[Problem]
) -> Factory | None:
    if not rows or not 0 < len(header) <= MAXIMUM_PARAMETERS:
        message = f"a table must have at least one row, and 1 to {MAXIMUM_PARAMETERS} columns"
        problems.append(problem(at, "empty", message))
        return None
    found = [*_wrong_header(header, at), *_wrong_rows(header, rows, at)]
    problems += found
    if found:
        return None
    lists: dict[str, list[Value]] = {
        name: [row[index] for row in rows] for index, name in enumerate(header)
    }
    return Columns(lists=lists)


def _wrong_header(header: Sequence[str], at: Path) -> list[Problem]:
    wrong = [name for name in header if not _NAME.fullmatch(name)]
    doubled = {name for name in header if list(header).count(name) > 1}
    return [
        *(problem(at, "parameter", f"column name {shown(name)} is invalid") for name in wrong),
        *(problem(at, "duplicate", f"column {shown(name)} occurs twice") for name in doubled),
    ]


def _wrong_rows(header: Sequence[str], rows: Sequence[Sequence[Any]], at: Path) -> list[Problem]:
    """The first row that cannot be used."""
    for index, row in enumerate(rows):
        if len(row) != len(header):
            message = f"row {index} has {len(row)} values, not {len(header)}"
            return [problem(at, "length", message)]
        for value in row:
            if wrong := wrong_value(value):
                return [problem(at, "value", f"a value in row {index} {wrong}")]
    return []


def _doubled(names: Sequence[str], at: Path) -> list[Problem]:
    return [
        problem(
            (*at, "parameters", index, "name"),
            "duplicate",
            "each parameter must have a unique name",
        )
        for index, name in enumerate(names)
        if name in names[:index]
    ]
