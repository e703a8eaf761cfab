"""Writing many rows at once: one INSERT or UPDATE from a list of values.

Django's `bulk_create` compiles an expression per value and `bulk_update` builds a CASE expression per column and row,
which were most of the cost of scheduling and ingest. Owns no table; callers hold the locks.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connection
from django.db.models import DateTimeField, JSONField, Model

if TYPE_CHECKING:
    from django.db.models import Field

    Column = Field[Any, Any]

ROWS = 500  # of 12 columns: far below SQLite's 32,766 parameters a statement


# What `jobs.transition` writes, and nobody else.
ATTEMPT_COLUMNS = (
    *("status", "reason", "detail", "tasks", "max_memory_kb", "stage_in_s", "stage_out_s"),
    *("started_at", "ended_at"),
)
JOB_COLUMNS = (
    *("status", "outcome", "reason", "detail", "queued", "queued_at", "retries", "node_faults"),
    *("started_at", "ended_at", "delete_requested_at", "queue_deadline", "shape"),
)


def update_rows(rows: Sequence[Model], columns: Sequence[str]) -> None:
    """Write `columns` of saved rows of one model, by primary key. Call inside a transaction."""
    for start in range(0, len(rows), ROWS):
        _update(rows[start : start + ROWS], columns)


def insert_rows(  # noqa: PLR0913 each is a part of one statement
    model: type[Model],
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    later_s: float = 0.0,
    ignore_conflicts: bool = False,
    returning: Sequence[str] = (),
) -> list[tuple[Any, ...]]:
    """Insert rows of values for `columns`, in their order; all other columns get the model's defaults.

    later_s: with it `due_at` becomes so many seconds from the database's now. `returning`: these columns of the new
    rows. Call inside a transaction.
    """
    answer: list[tuple[Any, ...]] = []
    for start in range(0, len(rows), ROWS):
        sql, values = _insert(model, columns, rows[start : start + ROWS], later_s)
        sql += " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
        names = [_name(_field(model, name)) for name in returning]
        sql += f" RETURNING {', '.join(names)}" if names else ""
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            answer += cursor.fetchall() if names else []
    return answer


def _update(rows: Sequence[Model], columns: Sequence[str]) -> None:
    meta = rows[0]._meta
    fields = [_field(type(rows[0]), name) for name in columns]
    key = meta.pk
    table = connection.ops.quote_name(meta.db_table)
    names = [field.attname for field in (key, *fields)]
    given, values = _given([key, *fields], [[getattr(row, name) for name in names] for row in rows])
    sql = (
        f"{given} UPDATE {table} "  # noqa: S608 names of models
        f"SET {', '.join(f'{_name(field)} = {_cast(field)}' for field in fields)} "
        f"FROM v WHERE {table}.{_name(key)} = {_cast(key)}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, values)


def _insert(
    model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]], later_s: float
) -> tuple[str, list[Any]]:
    fields = [_field(model, name) for name in columns]
    sources = {_name(field): _cast(field) for field in fields}
    given, values = _given(fields, rows)
    for field in model._meta.concrete_fields:
        name = _name(field)
        if later_s and name == _name(_field(model, "due_at")):
            sources[name] = _from_now(later_s)
        elif not (name in sources or field.primary_key or field.has_db_default()):
            sources[name] = f"CAST(%s AS {field.rel_db_type(connection)})"
            values.append(_preparing(field)(field.get_default()))
    table = connection.ops.quote_name(model._meta.db_table)
    sql = (
        f"{given} INSERT INTO {table} ({', '.join(sources)}) "  # noqa: S608 names of models
        f"SELECT {', '.join(sources.values())} FROM v WHERE 1 = 1"
    )
    return sql, values


def _given(fields: "Sequence[Column]", rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    """A list of values called v, and its parameters."""
    preparing = [_preparing(field) for field in fields]
    line = f"({', '.join(['%s'] * len(fields))})"
    names = ", ".join(_name(field) for field in fields)
    values = [prepare(value) for row in rows for prepare, value in zip(preparing, row, strict=True)]
    return f"WITH v({names}) AS (VALUES {', '.join([line] * len(rows))})", values


def _preparing(field: "Column") -> Callable[[Any], Any]:
    """What makes a value of this field one of the database driver's: most are already."""
    if isinstance(field, JSONField | DateTimeField):
        return lambda value: field.get_db_prep_save(value, connection)
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _from_now(seconds: float) -> str:
    """In the form in which Django stores times."""
    if connection.vendor == "postgresql":
        return f"STATEMENT_TIMESTAMP() + {seconds:f} * INTERVAL '1 second'"
    return f"STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW', '+{seconds:f} seconds')"


def _field(model: type[Model], name: str) -> "Column":
    field: Column = model._meta.get_field(name)  # type: ignore[assignment]
    return field


def _name(field: "Column") -> str:
    return connection.ops.quote_name(field.column or "")


def _cast(field: "Column") -> str:
    """PostgreSQL takes values in a list for text unless told; SQLite stores what it is given."""
    name = f"v.{_name(field)}"
    if connection.vendor != "postgresql":
        return name
    return f"CAST({name} AS {field.rel_db_type(connection)})"
