"""Job documents that are accepted, and what becomes of them (S79-S88, D10, C44-C49)."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.shapes import parse_shape
from jobs.spec import (
    JobDocument,
    kind_of,
    parse_job,
    run_spec,
    runtime_for,
    shape_of,
    stored_form,
)
from prominence.errors import InvalidDocument

TASK = {"image": "busybox"}
JOB = {"tasks": [TASK]}


def job(**changes: Any) -> dict[str, Any]:
    return JOB | changes


def task(**changes: Any) -> dict[str, Any]:
    return {"tasks": [TASK | changes]}


@pytest.mark.contract("S69", "S80", "S108")
def test_smallest_document_gets_the_defaults_s80() -> None:
    document = parse_job(JOB)

    spec = run_spec(stored_form(document))

    assert (spec.cpus, spec.memory_mb, spec.disk_mb, spec.nodes) == (1, 1024, 10240, 1)
    assert (spec.walltime_s, document.policies.maximum_retries, spec.name) == (720 * 60, 0, "")
    assert (spec.tasks[0].runtime, spec.tasks[0].command) == ("singularity", ())


@pytest.mark.parametrize(
    "document",
    [
        job(name=""),
        job(name="my-workflow/my job_1.2/3"),
        job(name="x" * 512),
        job(resources={}),
        job(resources={"memory": 4.0}),
        job(resources={"memory": 0.001, "walltime": 0.05}),
        job(resources={"cpus": 1024, "memory": 32768, "disk": 1000000, "walltime": 10080}),
        job(labels={"a" * 63: "b" * 63, "A9": "x-y_z./"}),
        job(labels={}),
        job(inputs=[]),
        job(inputs=[{"filename": "a", "content": ""}]),
        job(inputs=[{"filename": "a", "content": base64.encodebytes(b"x" * 1_000_000).decode()}]),
        job(policies={"maximumRetries": 100}),
        task(cmd="", args=[], env={}),
        task(cmd="echo a\necho b"),
        task(env={"A": 1, "B": 1.5, "_c": "", "D": "a=b c"}),
        task(type="basic"),
        task(image="https://example.org/a.sif?sig=x&y=%20"),
        {"tasks": [TASK] * 100},
    ],
)
@pytest.mark.contract("S7", "S79", "S82", "S85", "S86", "S87")
def test_valid_document_is_accepted(document: dict[str, Any]) -> None:
    assert isinstance(parse_job(document), JobDocument)


@pytest.mark.parametrize(
    "document",
    [
        job(
            artifacts=[],
            storage={},
            outputFiles=[],
            outputDirs=None,
            notifications=[],
            placement=None,
        ),
        job(policies={"placement": {"requirements": {"sites": []}, "preferences": {}}}),
        job(policies={"autoScalingType": None, "maximumReruns": 0}),
        job(resources={"nodes": 1, "cpusRange": None, "totalCpusRange": []}),
        task(imagePullCredential={}, procsPerNode=0, app=""),
        job(factories=[], dependencies={}),
    ],
)
def test_key_that_means_nothing_is_accepted_and_forgotten(document: dict[str, Any]) -> None:
    stored = stored_form(parse_job(document))

    assert set(stored) <= {"version", "resources", "tasks", "policies"}
    assert stored.get("policies", {}) == {}
    assert stored["tasks"] == [{"image": "busybox", "runtime": "singularity"}]


@pytest.mark.parametrize(
    ("image", "runtime"),
    [
        ("busybox", "singularity"),
        ("centos:7", "singularity"),
        ("eu.gcr.io/project/image:tag", "singularity"),
        ("shub://intel/HPC-containers-from-Intel:lammps", "singularity"),
        ("https://example.org/a.sif", "singularity"),
        ("https://example.org/a.simg", "singularity"),
        ("https://example.org/a.tar", "udocker"),
        ("https://example.org/a.TAR?sig=b.sif", "udocker"),
        ("https://example.org/a.tgz", "udocker"),
        ("https://example.org/a.sif?name=b.tar", "singularity"),
        ("/data/image.tar", "udocker"),
        ("/data/image.sif", "singularity"),
        ("user/image.tar", "singularity"),
    ],
)
def test_runtime_follows_from_the_image_s24_s25_s26_d10(image: str, runtime: str) -> None:
    assert runtime_for(image) == runtime
    assert parse_job(task(image=image)).tasks[0].runtime == runtime


def test_runtime_asked_for_wins_s26() -> None:
    assert parse_job(task(runtime="udocker")).tasks[0].runtime == "udocker"


@pytest.mark.parametrize(
    ("cmd", "words"),
    [
        ("echo hello", ("echo", "hello")),
        ("/bin/bash -c \"a; b 'c'\"", ("/bin/bash", "-c", "a; b 'c'")),
        ("echo $HOME `id` && rm", ("echo", "$HOME", "`id`", "&&", "rm")),
        ("echo '' \"a b\" c\\ d # e", ("echo", "", "a b", "c d", "#", "e")),
        ("  ", ()),
    ],
)
def test_command_is_split_and_never_given_to_a_shell_s65(cmd: str, words: tuple[str, ...]) -> None:
    assert run_spec(stored_form(parse_job(task(cmd=cmd)))).tasks[0].command == words


@pytest.mark.parametrize(("args", "words"), [("a 'b c'", ("a", "b c")), (["a b", ""], ("a b", ""))])
def test_arguments_are_a_text_or_a_list(args: object, words: tuple[str, ...]) -> None:
    assert run_spec(stored_form(parse_job(task(args=args)))).tasks[0].args == words


def test_numbers_in_env_become_texts() -> None:
    spec = run_spec(stored_form(parse_job(task(env={"A": 1, "B": 1.5, "C": "x"}))))

    assert spec.tasks[0].env == {"A": "1", "B": "1.5", "C": "x"}


def test_environment_for_all_tasks_is_passed_on() -> None:
    assert run_spec(stored_form(parse_job(JOB)), env={"X": "1"}).env == {"X": "1"}


def test_input_keeps_the_last_part_of_its_path_c48() -> None:
    document = job(inputs=[{"filename": "../../etc/passwd", "content": "aGk=", "executable": True}])

    stored = stored_form(parse_job(document))

    file = run_spec(stored).inputs[0]
    assert (file.filename, file.size, file.executable) == ("passwd", 2, True)
    assert file.sha256 == parse_job(document).inputs[0].sha256
    assert "content" not in stored["inputs"][0]


def test_memory_is_rounded_up_to_whole_megabytes_c45() -> None:
    assert parse_job(job(resources={"memory": 1.0001})).memory_mb == 1025


def test_document_cannot_be_changed() -> None:
    document = parse_job(JOB)
    with pytest.raises(ValueError):
        document.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("document", "shape", "runtime"),
    [
        (JOB, "c1.m1024.d10240", "singularity"),
        (job(resources={"cpus": 4, "memory": 0.5, "disk": 1}), "c4.m512.d1024", "singularity"),
        (task(runtime="udocker"), "c1.m1024.d10240.u", "udocker"),
        ({"tasks": [TASK, TASK | {"runtime": "udocker"}]}, "c1.m1024.d10240.u", "udocker"),
        (job(policies={"maximumTimeInQueue": -1}), "c1.m1024.d10240.w", "singularity"),
        (job(policies={"maximumTimeInQueue": 0}), "c1.m1024.d10240", "singularity"),
        (job(policies={"placement": {}}), "c1.m1024.d10240", "singularity"),
        (
            job(policies={"placement": {"requirements": {"sites": []}}}),
            "c1.m1024.d10240",
            "singularity",
        ),
        (
            job(placement={"requirements": {"sites": ["A"]}}),
            "c1.m1024.d10240.@ed0faafd8bd596a5",
            "singularity",
        ),
    ],
)
def test_shape_says_what_a_slot_must_offer(
    document: dict[str, Any], shape: str, runtime: str
) -> None:
    assert shape_of(parse_job(document)) == shape
    assert str(parse_shape(shape)) == shape
    assert parse_shape(shape).runtime == runtime


@pytest.mark.parametrize(
    "text", ["", "c1", "c0.m1.d1", "c1.m1.d1.x", "c1.m1.d1 ", "c1.m1.d1.p.u", "c-1.m1.d1"]
)
def test_wrong_shape_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_shape(text)


def test_process_runtime_needs_the_operators_leave(settings: Any) -> None:
    with pytest.raises(InvalidDocument):
        parse_job(task(runtime="process"))

    settings.CONFIG = _Allowing()

    assert shape_of(parse_job(task(runtime="process"))) == "c1.m1024.d10240.p"


class _Allowing:
    allow_process_runtime = True


def test_kind_is_equal_for_same_owner_images_and_commands_only() -> None:
    kinds = [
        kind_of(1, parse_job(task(cmd="a"))),
        kind_of(1, parse_job(task(cmd="a") | {"name": "other", "labels": {"a": "b"}})),
        kind_of(2, parse_job(task(cmd="a"))),
        kind_of(1, parse_job(task(cmd="b"))),
        kind_of(1, parse_job(task(cmd="a", image="alpine"))),
        kind_of(1, parse_job(task(cmd="a", args=["x"]))),
    ]

    assert kinds[0] == kinds[1]
    assert len(set(kinds)) == 5
    assert all(len(kind) == 32 and int(kind, 16) >= 0 for kind in kinds)


KEYS = st.sampled_from(
    [
        *("name", "resources", "labels", "tasks", "inputs", "policies", "artifacts", "image"),
        *("runtime", "cmd", "args", "env", "workdir", "type", "filename", "content", "executable"),
        *("maximumRetries", "cpus", "memory", "disk", "nodes", "walltime", "unknown"),
    ]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("busybox"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    JSON
    | st.fixed_dictionaries({"tasks": st.lists(JSON, max_size=2)}, optional={"resources": JSON})
)
def test_any_json_is_either_a_job_or_refused_with_reasons(document: object) -> None:
    refusal = None
    try:
        accepted = parse_job(document)
    except InvalidDocument as error:
        refusal = error
    if refusal is None:
        assert run_spec(stored_form(accepted)).tasks
    else:
        assert refusal.problems
        assert all(problem["message"] for problem in refusal.problems)


@given(
    cpus=st.integers(1, 1024),
    memory=st.floats(0.001, 32768) | st.integers(1, 32768),
    disk=st.integers(1, 1000),
    walltime=st.floats(0.01, 10080),
)
def test_stored_form_keeps_what_was_asked_for(
    cpus: int, memory: float, disk: int, walltime: float
) -> None:
    resources = {"cpus": cpus, "memory": memory, "disk": disk, "walltime": walltime}
    stored = stored_form(parse_job(job(resources=resources)))

    assert stored["resources"] == resources | {"nodes": 1}
    spec, shape = run_spec(stored), parse_shape(shape_of(parse_job(job(resources=resources))))
    assert (spec.cpus, spec.memory_mb, spec.disk_mb) == (shape.cpus, shape.memory_mb, shape.disk_mb)
    assert spec.memory_mb >= memory * 1024 - 1e-6
