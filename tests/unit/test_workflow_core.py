"""The pure core of workflows by property: sweeps, substitution, graphs, ranges, status (S129-S135, X18-X22)."""

import shlex
from decimal import Decimal
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows import ranges
from workflows.dag import find_cycle, parent_sets, parents_of
from workflows.factories import (
    Columns,
    Range,
    Repeat,
    Sweep,
    count_steps,
    instantiate,
    read_factory,
    shown,
    stored_factory,
    text_of,
)
from workflows.states import Facts, Progress, Tolerance, WorkflowStatus, derive

numbers = st.decimals(min_value=-1000, max_value=1000, places=3)
steps = st.decimals(min_value=Decimal("0.001"), max_value=50, places=3)
names = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1, max_size=4)
plain = st.text("abc019._-", min_size=1, max_size=5)
awkward = st.text("ab \"'\\$*;~#", max_size=6)


@pytest.mark.parametrize(
    ("start", "end", "step", "texts"),
    [
        (0, 0.3, 0.1, ["0", "0.1", "0.2", "0.3"]),
        (1, 2, 0.1, ["1", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8", "1.9", "2"]),
        (1, 4, 1, ["1", "2", "3", "4"]),
        (1, 4, 2, ["1", "3"]),
        (3, 0, -1.5, ["3", "1.5", "0"]),
        (5, 5, 1, ["5"]),
        (5, 5, -1, ["5"]),
        (-0.1, 0.1, 0.1, ["-0.1", "0", "0.1"]),
        (1e-5, 3e-5, 1e-5, ["0.00001", "0.00002", "0.00003"]),
        (0, 1e21, 5e20, ["0", "500000000000000000000", "1000000000000000000000"]),
    ],
)
def test_sweep_values_are_exact_in_decimal_and_the_end_is_included_x21_s132(
    start: float, end: float, step: float, texts: list[str]
) -> None:
    first, last, by = (Decimal(repr(x)) for x in (start, end, step))
    sweep = Sweep(
        ranges=(Range(name="x", start=first, step=by, count=count_steps(first, last, by)),)
    )

    assert [text_of(sweep.values(n)["x"]) for n in range(sweep.count)] == texts


@given(start=numbers, reach=st.integers(0, 10_000), step=steps, up=st.booleans(), rest=steps)
def test_sweep_ends_at_or_before_its_end(
    start: Decimal, reach: int, step: Decimal, up: bool, rest: Decimal
) -> None:
    by = step if up else -step
    beyond = min(rest, step - Decimal("0.001")) * (1 if up else -1)

    assert count_steps(start, start + by * reach + beyond, by) == reach + 1


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_sweep_is_the_cross_product_last_parameter_fastest_s133_x22(counts: list[int]) -> None:
    sweep = Sweep(
        ranges=tuple(
            Range(name=f"p{i}", start=Decimal(0), step=Decimal(1), count=c)
            for i, c in enumerate(counts)
        )
    )

    made = [tuple(int(v) for v in sweep.values(n).values()) for n in range(sweep.count)]

    assert made == list(product(*map(range, counts)))


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3), repeats=st.integers(1, 10**7))
def test_stored_factories_are_read_back(counts: list[int], repeats: int) -> None:
    sweep = Sweep(
        ranges=tuple(
            Range(name=f"p{i}", start=Decimal("0.1"), step=Decimal("-1E-7"), count=c)
            for i, c in enumerate(counts)
        )
    )

    assert read_factory(stored_factory(sweep)) == sweep
    assert read_factory(stored_factory(Repeat(count=repeats))) == Repeat(count=repeats)
    assert read_factory(stored_factory(Columns(lists={"x": [1]}))) is None


@given(count=st.integers(1, 3500))
def test_pages_hold_all_values_in_order_s134(count: int) -> None:
    columns = Columns(lists={"x": list(range(count))})

    pages = [columns.page(n)["x"] for n in ranges.numbers(ranges.all_chunks(count))]

    assert [value for page in pages for value in page] == list(range(count))
    assert all(len(page) <= ranges.CHUNK for page in pages)


@given(
    words=st.lists(st.one_of(plain, awkward, st.just("$x"), st.just("a${x}b")), max_size=5),
    value=st.one_of(plain, awkward),
)
def test_a_value_never_changes_how_a_command_splits_into_words_s129(
    words: list[str], value: str
) -> None:
    template = {"tasks": [{"cmd": shlex.join(words)}]}

    made = instantiate(template, {"x": value})["tasks"][0]["cmd"]

    expected = [word.replace("${x}", value) if "${x}" in word else word for word in words]
    expected = [value if word == "$x" else word for word in expected]
    assert shlex.split(made) == expected


@pytest.mark.parametrize(
    ("cmd", "made"),
    [
        ("echo $x", "echo 1"),
        ("echo ${x}$y", "echo 12"),
        ("echo $xy ${xy} $X $", "echo $xy ${xy} $X $"),
        ("sh -c \"echo '$x' ${y}\"", "sh -c \"echo '1' 2\""),
        ("echo $PROMINENCE_JOB_ID", "echo $PROMINENCE_JOB_ID"),
    ],
)
def test_only_whole_names_of_parameters_are_replaced_s129(cmd: str, made: str) -> None:
    task = {"cmd": cmd, "args": ["$x"], "workdir": "/d/$y", "env": {"A": "$x"}}
    template = {
        "tasks": [task],
        "artifacts": [{"url": "http://h/$x"}],
        "outputFiles": ["out-${x}.txt"],
    }

    spec = instantiate(template, {"x": 1, "y": Decimal("2.0")})

    assert spec["tasks"][0] == {
        "cmd": made,
        "args": ["1"],
        "workdir": "/d/2",
        "env": {"A": "$x", "PROMINENCE_PARAMETER_x": "1", "PROMINENCE_PARAMETER_y": "2"},
    }
    assert spec["artifacts"] == [{"url": "http://h/1"}]
    assert spec["outputFiles"] == ["out-1.txt"]
    assert spec["parameters"] == {"x": 1, "y": 2}
    assert template["tasks"] == [task]


def test_values_are_shown_as_json_numbers_and_texts() -> None:
    assert [shown(v) for v in (Decimal("0.30"), Decimal(4), 5, 0.5, "a=b")] == [
        0.3,
        4,
        5,
        0.5,
        "a=b",
    ]
    assert [text_of(v) for v in (-5, 1e-5, "a=b", 0.0)] == ["-5", "0.00001", "a=b", "0"]  # X24


edges = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25)


def graph(pairs: list[tuple[int, int]]) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for parent, child in pairs:
        if str(child) not in made.setdefault(str(parent), []):
            made[str(parent)].append(str(child))
    return made


@given(pairs=edges)
def test_a_cycle_found_is_one_and_none_is_missed_x19(pairs: list[tuple[int, int]]) -> None:
    dependencies = graph(pairs)

    cycle = find_cycle(dependencies)

    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(b in dependencies[a] for a, b in pairwise(cycle))
    else:
        parents, left = parents_of(dependencies), {str(n) for n in range(10)}
        while left:
            free = {n for n in left if not parents.get(n, frozenset()) & left}
            assert free, "no cycle was found, but nothing can start"
            left -= free


@given(pairs=edges)
def test_each_distinct_parent_set_is_one_join(pairs: list[tuple[int, int]]) -> None:
    dependencies = graph(pairs)

    joins = parent_sets(dependencies)

    children = [child for group in joins.values() for child in group]
    assert len(children) == len(set(children))
    assert {c: p for p, group in joins.items() for c in group} == parents_of(dependencies)


def test_a_chain_of_ten_thousand_is_no_trouble() -> None:
    chain = {str(n): [str(n + 1)] for n in range(10_000)}

    assert find_cycle(chain) == []
    assert len(find_cycle(chain | {"10000": ["0"]})) == 10_002


@given(chosen=st.sets(st.integers(0, 200)))
def test_ranges_say_what_they_were_made_of(chosen: set[int]) -> None:
    ordered = sorted(chosen)

    made = ranges.ranges_of(ordered)

    assert list(ranges.numbers(made)) == ordered
    assert ranges.count(made) == len(ordered)
    assert [ranges.at(made, i) for i in range(len(ordered))] == ordered
    assert [ranges.position(made, n) for n in ordered] == list(range(len(ordered)))


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ((False, False, False, True, False), "pending"),
        ((False, True, False, True, True), "running"),
        ((False, True, False, False, True), "failed"),
        ((False, True, False, False, False), "completed"),
        ((True, True, True, False, False), "running"),
        ((True, False, True, False, False), "pending"),
        ((True, True, False, True, True), "deleted"),
    ],
)
def test_the_first_rule_decides_the_status(facts: tuple[bool, ...], status: str) -> None:
    deleting, started, alive, unfinished, broken = facts

    assert WorkflowStatus(status) == derive(
        Facts(deleting=deleting, started=started, alive=alive, unfinished=unfinished, broken=broken)
    )


def test_tolerance_is_a_count_or_a_percentage_rounded_down() -> None:
    assert Tolerance(count=3).allowed(2) == 3
    assert [Tolerance(percent=Decimal(10)).allowed(n) for n in (9, 10, 25)] == [0, 1, 2]
    assert Progress(total=9, done=3, failed=2, queued=1).waiting == 3
