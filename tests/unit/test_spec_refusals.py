"""Job documents that are refused: where, with which code, in which words (U22, U23, S85-S88)."""

import base64
from typing import Any

import pytest

from jobs.spec import parse_job
from prominence.errors import InvalidDocument, Problem

TASK = {"image": "busybox"}
JOB = {"tasks": [TASK]}
MAIL = {"event": "jobFinished", "type": "email"}
HUGE = 10**29
PLACEMENT = "/policies/placement"
BIG_FILE = base64.b64encode(b"x" * 1_000_001).decode()


def job(**changes: Any) -> dict[str, Any]:
    return JOB | changes


def task(**changes: Any) -> dict[str, Any]:
    return {"tasks": [TASK | changes]}


def policy(**changes: Any) -> dict[str, Any]:
    return JOB | {"policies": changes}


def placement(**changes: Any) -> dict[str, Any]:
    return policy(placement=changes)


def notice(**changes: Any) -> dict[str, Any]:
    return job(notifications=[MAIL | changes])


def hook(**changes: Any) -> dict[str, Any]:
    return notice(type="webhook", **{"url": "https://example.org/", "secret": "s" * 16} | changes)


def file(**changes: Any) -> dict[str, Any]:
    return JOB | {"inputs": [{"filename": "a", "content": "aGk="} | changes]}


def artifact(**changes: Any) -> dict[str, Any]:
    return JOB | {"artifacts": [{"url": "http://x/a"} | changes]}


def problems(document: object) -> list[Problem]:
    with pytest.raises(InvalidDocument) as caught:
        parse_job(document)
    return caught.value.problems


# document, pointer, code, a part of the message
BAD = [
    (None, "", "type", "a job must be a JSON object, not null"),
    ([], "", "type", "not a list"),
    ("x", "", "type", 'not "x"'),
    (5, "", "type", "not 5"),
    ({}, "/tasks", "missing", "a job must contain tasks"),
    ({"tasks": []}, "/tasks", "missing", "a job must contain tasks"),
    ({"tasks": None}, "/tasks", "type", "not null"),
    ({"tasks": {}}, "/tasks", "type", '"tasks" must be a list of JSON objects, not an object'),
    ({"tasks": "busybox"}, "/tasks", "type", "list of JSON objects"),
    ({"tasks": [None]}, "/tasks/0", "type", "each task must be a JSON object, not null"),
    ({"tasks": [TASK, "x"]}, "/tasks/1", "type", "each task must be a JSON object"),
    ({"tasks": [TASK] * 101}, "/tasks", "tooMany", "at most 100 tasks"),
    ({"tasks": [TASK | {"cmd": "x" * 60_000}] * 5}, "/tasks", "tooLarge", "in all cmd and args"),
    ({"tasks": [{}]}, "/tasks/0/image", "missing", "each task must specify a container image"),
    (job(name=5), "/name", "type", '"name" must be a text, not 5'),
    (job(name=None), "/name", "type", "not null"),
    (job(name="x" * 513), "/name", "name", "invalid job name"),
    (job(name="../../../tmp/x"), "/name", "name", "invalid job name"),
    (job(name="a/../b"), "/name", "name", "invalid job name"),
    (job(name="a/. "), "/name", "name", "invalid job name"),
    (job(name="/a"), "/name", "name", "invalid job name"),
    (job(name="a//b"), "/name", "name", "invalid job name"),
    (job(name="a;b"), "/name", "name", "invalid job name"),
    (job(name="a\n"), "/name", "name", "invalid job name"),
    (job(name="ä"), "/name", "name", "invalid job name"),
    (job(resources=[]), "/resources", "type", '"resources" must be a JSON object'),
    (job(resources=None), "/resources", "type", "not null"),
    (job(resources={"cpus": 0}), "/resources/cpus", "range", "from 1 to 1024, not 0"),
    (job(resources={"cpus": 1025}), "/resources/cpus", "range", "from 1 to 1024"),
    (
        job(resources={"cpus": "2"}),
        "/resources/cpus",
        "type",
        'whole number from 1 to 1024, not "2"',
    ),
    (job(resources={"cpus": 1.5}), "/resources/cpus", "type", "whole number"),
    (job(resources={"cpus": True}), "/resources/cpus", "type", "not true"),
    (job(resources={"cpus": HUGE}), "/resources/cpus", "range", "from 1 to 1024"),
    (job(resources={"memory": -1}), "/resources/memory", "range", "number of GB"),
    (job(resources={"memory": 0}), "/resources/memory", "range", "from 0.001"),
    (job(resources={"memory": HUGE}), "/resources/memory", "range", "to 32768"),
    (job(resources={"memory": "4"}), "/resources/memory", "type", "number of GB"),
    (job(resources={"memory": float("nan")}), "/resources/memory", "type", "number of GB"),
    (job(resources={"memory": float("inf")}), "/resources/memory", None, "number of GB"),
    (job(resources={"disk": 0}), "/resources/disk", "range", "whole number of GB"),
    (job(resources={"disk": 1.5}), "/resources/disk", "type", "whole number of GB"),
    (job(resources={"disk": HUGE}), "/resources/disk", "range", "1000000"),
    (job(resources={"nodes": 0}), "/resources/nodes", "range", "whole number from 1"),
    (job(resources={"nodes": 2}), "/resources/nodes", "notAvailable", "not available yet"),
    (job(resources={"walltime": 0}), "/resources/walltime", "range", "above 0 and at most 10080"),
    (job(resources={"walltime": 10080.5}), "/resources/walltime", "range", "at most 10080"),
    (job(resources={"walltime": "1h"}), "/resources/walltime", "type", "minutes"),
    (job(resources={"cpuz": 1}), "/resources/cpuz", "unknown", 'invalid item "cpuz" in resources'),
    (
        job(resources={"cpusRange": [1, 2]}),
        "/resources/cpusRange",
        "notAvailable",
        '"cpusRange" is not',
    ),
    (
        job(resources={"memoryPerCpu": 2}),
        "/resources/memoryPerCpu",
        "notAvailable",
        "not available yet",
    ),
    (job(labels=[]), "/labels", "type", '"labels" must be a JSON object of texts'),
    (job(labels={"a-b": "x"}), "/labels/a-b", "label", 'label name "a-b" is invalid'),
    (job(labels={"": "x"}), "/labels/", "label", 'label name "" is invalid'),
    (job(labels={"a" * 64: "x"}), f"/labels/{'a' * 64}", "label", "1 to 63"),
    (job(labels={"a/~b": "x"}), "/labels/a~1~0b", "label", "is invalid"),
    (job(labels={"a": "b" * 64}), "/labels/a", "label", "label value"),
    (job(labels={"a": "b c"}), "/labels/a", "label", 'label value "b c" is invalid'),
    (job(labels={"a": ""}), "/labels/a", "label", "label value"),
    (job(labels={"a": 5}), "/labels/a", "type", "a label value must be a text, not 5"),
    (job(labels={"a": None}), "/labels/a", "type", "a label value must be a text"),
    (job(labels={"cpus": {}}), "/labels/cpus", "type", "a label value must be a text"),
    (job(labels={f"k{n}": "v" for n in range(101)}), "/labels", "tooMany", "at most 100 labels"),
    (task(image=""), "/tasks/0/image", "image", "each task must specify a container image"),
    (task(image=5), "/tasks/0/image", "type", '"image" must be a text'),
    (task(image="x; id"), "/tasks/0/image", "image", "without blanks"),
    (task(image="--help"), "/tasks/0/image", "image", 'does not begin with "-"'),
    (task(image="a\nb"), "/tasks/0/image", "image", "control characters"),
    (task(image="a\u00a0b"), "/tasks/0/image", "image", "without blanks"),
    (task(image="x" * 513), "/tasks/0/image", "image", "at most 512"),
    (
        task(runtime="docker"),
        "/tasks/0/runtime",
        "runtime",
        "the container runtime must be either udocker or singularity",
    ),
    (task(runtime="process"), "/tasks/0/runtime", "runtime", "either udocker or singularity"),
    (task(runtime=1), "/tasks/0/runtime", "type", '"runtime" must be a text'),
    (task(cmd=["echo"]), "/tasks/0/cmd", "type", '"cmd" must be a text, not a list'),
    (task(cmd=None), "/tasks/0/cmd", "type", "not null"),
    (task(cmd="echo 'a"), "/tasks/0/cmd", "quotes", "unbalanced quotes"),
    (task(cmd='echo "a'), "/tasks/0/cmd", "quotes", "unbalanced quotes"),
    (task(cmd="a\\"), "/tasks/0/cmd", "quotes", "backslash"),
    (task(cmd="a\0b"), "/tasks/0/cmd", "text", "NUL"),
    (task(cmd="x" * 65537), "/tasks/0/cmd", "text", "at most 65536"),
    (task(args=5), "/tasks/0/args", "type", "a text or a list of texts"),
    (task(args="'"), "/tasks/0/args", "quotes", "unbalanced quotes"),
    (task(args=["a", 1]), "/tasks/0/args/1", "type", "each of args must be a text, not 1"),
    (task(args=["\0"]), "/tasks/0/args/0", "text", "NUL"),
    (task(args=["a"] * 1001), "/tasks/0/args", "tooMany", "at most 1000"),
    (task(env=["A=b"]), "/tasks/0/env", "type", '"env" must be a JSON object'),
    (task(env={"1A": "x"}), "/tasks/0/env/1A", "variable", 'variable name "1A" is invalid'),
    (task(env={"A-B": "x"}), "/tasks/0/env/A-B", "variable", "is invalid"),
    (task(env={"A=B": "x"}), "/tasks/0/env/A=B", "variable", "is invalid"),
    (task(env={"": "x"}), "/tasks/0/env/", "variable", "is invalid"),
    (task(env={"A": None}), "/tasks/0/env/A", "type", "must be a text or a number, not null"),
    (task(env={"A": True}), "/tasks/0/env/A", "type", "not true"),
    (task(env={"A": {}}), "/tasks/0/env/A", "type", "not an object"),
    (task(env={"A": "\0"}), "/tasks/0/env/A", "text", "NUL"),
    (task(workdir=""), "/tasks/0/workdir", "workdir", "1 to 4096"),
    (task(workdir="a\0"), "/tasks/0/workdir", "workdir", "control characters"),
    (task(workdir=5), "/tasks/0/workdir", "type", '"workdir" must be a text'),
    (task(type="openmpi"), "/tasks/0/type", "notAvailable", "not available yet"),
    (task(app="a b"), "/tasks/0/app", "type", "a name of letters, digits"),
    (task(app="a", runtime="udocker"), "/tasks/0", "app", "needs the runtime singularity"),
    (task(type="other"), "/tasks/0/type", "type", 'must be "basic"'),
    (task(procsPerNode=2), "/tasks/0/procsPerNode", "notAvailable", '"procsPerNode" is not'),
    (task(command="x"), "/tasks/0/command", "unknown", 'invalid item "command" in task'),
    (job(inputs={}), "/inputs", "type", "list of JSON objects"),
    (job(inputs=["file://x"]), "/inputs/0", "type", "each input must be a JSON object"),
    (job(inputs=[{"content": ""}]), "/inputs/0/filename", "missing", "must specify a filename"),
    (job(inputs=[{"filename": "a"}]), "/inputs/0/content", "missing", "must specify its content"),
    (file(filename=""), "/inputs/0/filename", "filename", "is invalid"),
    (file(filename="."), "/inputs/0/filename", "filename", "is invalid"),
    (file(filename="a/.."), "/inputs/0/filename", "filename", "is invalid"),
    (file(filename="a/"), "/inputs/0/filename", "filename", "is invalid"),
    (file(filename="a\0"), "/inputs/0/filename", "filename", "is invalid"),
    (file(filename="ä" * 128), "/inputs/0/filename", "filename", "1 to 255 bytes"),
    (file(filename=5), "/inputs/0/filename", "type", '"filename" must be a text'),
    (file(content=5), "/inputs/0/content", "type", "a text in base64"),
    (file(content="%"), "/inputs/0/content", "base64", "must be base64"),
    (file(content="abc"), "/inputs/0/content", "base64", "must be base64"),
    (file(content="é"), "/inputs/0/content", "base64", "must be base64"),
    (file(content=BIG_FILE), "/inputs/0/content", "tooLarge", "at most 1000000 bytes"),
    (file(executable="yes"), "/inputs/0/executable", "type", "true or false"),
    (file(mode=1), "/inputs/0/mode", "unknown", "invalid item mode in input"),
    (
        job(inputs=[{"filename": n, "content": ""} for n in ("x/a", "y/a")]),
        "/inputs/1/filename",
        "duplicate",
        'input file name "a" is used more than once',
    ),
    (job(policies=5), "/policies", "type", '"policies" must be a JSON object'),
    (job(policies={"maximumRetries": -1}), "/policies/maximumRetries", "range", "0 to 100"),
    (job(policies={"maximumRetries": 101}), "/policies/maximumRetries", "range", "0 to 100"),
    (job(policies={"maximumRetries": "1"}), "/policies/maximumRetries", "type", "0 to 100"),
    (job(policies={"x": 1}), "/policies/x", "unknown", 'invalid item "x" in policies'),
    (
        job(policies={"maximumReruns": 2}),
        "/policies/maximumReruns",
        "notAvailable",
        "not available yet",
    ),
    (policy(maximumRetries=1.5), "/policies/maximumRetries", "type", "0 to 100"),
    (policy(maximumRetries=True), "/policies/maximumRetries", "type", "0 to 100"),
    (policy(maximumRetries=None), "/policies/maximumRetries", "type", "not null"),
    (policy(maximumTaskRetries=-1), "/policies/maximumTaskRetries", "range", "0 to 100"),
    (policy(maximumTaskRetries=101), "/policies/maximumTaskRetries", "range", "0 to 100"),
    (policy(maximumTaskRetries="1"), "/policies/maximumTaskRetries", "type", "0 to 100"),
    (policy(maximumTimeInQueue=-2), "/policies/maximumTimeInQueue", "range", "-1 to 525600"),
    (policy(maximumTimeInQueue=525601), "/policies/maximumTimeInQueue", "range", "minutes"),
    (policy(maximumTimeInQueue=0.5), "/policies/maximumTimeInQueue", "type", "whole number"),
    (policy(maximumTimeInQueue="1h"), "/policies/maximumTimeInQueue", "type", "minutes"),
    (policy(leaveInQueue=1), "/policies/leaveInQueue", "type", "true or false"),
    (policy(leaveInQueue="true"), "/policies/leaveInQueue", "type", "true or false"),
    (policy(priority=1.5), "/policies/priority", "type", "whole number"),
    (policy(priority=HUGE), "/policies/priority", "range", "1000000"),
    (policy(priority=-1000001), "/policies/priority", "range", "-1000000"),
    (policy(ignoreTaskFailures="no"), "/policies/ignoreTaskFailures", "type", "true or false"),
    (policy(ignoreTaskTailures="no"), "/policies/ignoreTaskTailures", "type", "true or false"),
    (
        policy(reportJobSuccessOnTaskFailure=0),
        "/policies/reportJobSuccessOnTaskFailure",
        "type",
        "true or false",
    ),
    (
        policy(runSerialTasksOnAllNodes=[]),
        "/policies/runSerialTasksOnAllNodes",
        "type",
        "true or false",
    ),
    (policy(autoScalingType="auto"), "/policies/autoScalingType", "type", '"dedicated"'),
    (policy(autoScalingType=1), "/policies/autoScalingType", "type", '"shared"'),
    (
        policy(maximumIdleTimePerResource=-1),
        "/policies/maximumIdleTimePerResource",
        "range",
        "minutes",
    ),
    (policy(preemptible="x"), "/policies/preemptible", "type", "true or false"),
    (policy(placement=[]), "/policies/placement", "type", "a JSON object, not a list"),
    (policy(placement={"site": "A"}), "/policies/placement/site", "unknown", "placement policy"),
    (placement(requirements=[]), f"{PLACEMENT}/requirements", "type", "a JSON object"),
    (placement(preferences=None), f"{PLACEMENT}/preferences", "type", "a JSON object"),
    (
        placement(requirements={"site": ["A"]}),
        f"{PLACEMENT}/requirements/site",
        "unknown",
        'invalid item "site" in requirements',
    ),
    (
        placement(preferences={"cloud": ["A"]}),
        f"{PLACEMENT}/preferences/cloud",
        "unknown",
        'invalid item "cloud" in preferences',
    ),
    (placement(requirements={"sites": "A"}), f"{PLACEMENT}/requirements/sites", "type", "a list"),
    (
        placement(requirements={"sites": [1]}),
        f"{PLACEMENT}/requirements/sites/0",
        "type",
        "the name of a site must be a text",
    ),
    (
        placement(requirements={"sites": [""]}),
        f"{PLACEMENT}/requirements/sites/0",
        "place",
        "1 to 128",
    ),
    (
        placement(requirements={"regions": ["a\n"]}),
        f"{PLACEMENT}/requirements/regions/0",
        "place",
        "control character",
    ),
    (
        placement(preferences={"regions": ["a" * 129]}),
        f"{PLACEMENT}/preferences/regions/0",
        "place",
        "1 to 128",
    ),
    (
        placement(preferences={"sites": ["a"] * 101}),
        f"{PLACEMENT}/preferences/sites",
        "tooMany",
        "at most 100",
    ),
    (job(placement=5), "/placement", "type", '"placement" must be a JSON object'),
    (job(placement={"x": 1}), "/placement/x", "unknown", 'invalid item "x" in placement policy'),
    (
        job(placement={"requirements": {"sites": [5]}}),
        "/placement/requirements/sites/0",
        "type",
        "the name of a site",
    ),
    (job(placement={}, policies={"placement": {}}), "/placement", "duplicate", "given twice"),
    (artifact(url="http://x"), "/artifacts/0/url", "url", "must end in a file name"),
    (artifact(url="http://x/a/%2e%2e"), "/artifacts/0/url", "url", "must end in a file name"),
    (artifact(url="http://x/%2fetc%2fa"), "/artifacts/0/url", "url", "must end in a file name"),
    (artifact(url="ftp://x/a"), "/artifacts/0/url", "url", "http or https"),
    (artifact(url="http:///a"), "/artifacts/0/url", "url", "http or https"),
    (artifact(url="http://[/a"), "/artifacts/0/url", "url", "http or https"),
    (artifact(url="http://x/a b"), "/artifacts/0/url", "url", "no blanks"),
    (artifact(url="mydata.tar"), "/artifacts/0/url", "notAvailable", "object storage"),
    (artifact(url=5), "/artifacts/0/url", "type", '"url" must be a text'),
    (job(artifacts=[{}]), "/artifacts/0/url", "missing", "each artifact must specify a url"),
    (artifact(x=1), "/artifacts/0/x", "unknown", "invalid item x in artifact"),
    (artifact(executable="yes"), "/artifacts/0/executable", "type", "true or false"),
    (artifact(mountpoint="..:/mnt"), "/artifacts/0/mountpoint", "mountpoint", "is"),
    (artifact(mountpoint="a/b:/mnt"), "/artifacts/0/mountpoint", "mountpoint", "without slashes"),
    (artifact(mountpoint="a:mnt"), "/artifacts/0/mountpoint", "mountpoint", "absolute path"),
    (artifact(mountpoint="a:/"), "/artifacts/0/mountpoint", "mountpoint", "absolute path"),
    (artifact(mountpoint="a:/b/../c"), "/artifacts/0/mountpoint", "mountpoint", "absolute path"),
    (artifact(mountpoint="a:/b,c"), "/artifacts/0/mountpoint", "mountpoint", "absolute path"),
    (artifact(mountpoint="a:/proc/x"), "/artifacts/0/mountpoint", "mountpoint", "at or below"),
    (artifact(mountpoint="a:/home/user"), "/artifacts/0/mountpoint", "mountpoint", "at or below"),
    (job(artifacts={}), "/artifacts", "type", '"artifacts" must be a list'),
    (
        job(artifacts=[{"url": f"http://x/{n}"} for n in range(101)]),
        "/artifacts",
        "tooMany",
        "at most 100",
    ),
    (
        file(filename="b/a") | {"artifacts": [{"url": "http://x/%61?b"}]},
        "/artifacts/0/url",
        "duplicate",
        'artifact name "a" is used more than once',
    ),
    (job(storage={"type": "webdav"}), "/storage", "notAvailable", "not available yet"),
    (job(notifications={}), "/notifications", "type", "a list of JSON objects"),
    (job(notifications=["x"]), "/notifications/0", "type", "each notification"),
    (job(notifications=[MAIL] * 11), "/notifications", "tooMany", "at most 10"),
    (notice(event="started"), "/notifications/0/event", "type", '"jobFinished"'),
    (notice(event="workflowFinished"), "/notifications/0/event", "type", '"jobFinished"'),
    (notice(type="sms"), "/notifications/0/type", "type", "email"),
    (notice(to="x"), "/notifications/0/to", "unknown", 'invalid item "to" in notifications'),
    (notice(url="http://example.org/"), "/notifications/0", "notification", "neither"),
    (notice(type="webhook"), "/notifications/0", "notification", '"url" and "secret"'),
    (hook(url="ftp://example.org/"), "/notifications/0/url", "url", "http(s)://"),
    (hook(url="http:///x"), "/notifications/0/url", "url", "http(s)://"),
    (hook(url="http://a:99999/"), "/notifications/0/url", "url", "http(s)://"),
    (hook(url="http://u:p@example.org/"), "/notifications/0/url", "url", "user name"),
    (hook(url="http://example.org/a\nb"), "/notifications/0/url", "url", "ASCII"),
    (hook(url=5), "/notifications/0/url", "url", "http(s)://"),
    (hook(secret="short"), "/notifications/0/secret", "secret", "16 to 256"),
    (hook(secret="x" * 257), "/notifications/0/secret", "secret", "16 to 256"),
    (job(outputFiles="a"), "/outputFiles", "type", "a list of texts"),
    (job(outputFiles=[5]), "/outputFiles/0", "type", "must be a text"),
    (job(outputFiles=["../a"]), "/outputFiles/0", "path", "without .."),
    (job(outputFiles=["/etc/passwd"]), "/outputFiles/0", "path", "relative or below /home/user"),
    (job(outputFiles=["a"] * 101), "/outputFiles", "tooMany", "at most 100"),
    (job(outputDirs=["."]), "/outputDirs/0", "path", "inside the job's directory"),
    (job(outputDirs=[{"url": "x"}]), "/outputDirs/0", "type", "must be a text"),
    (job(jobs=[JOB]), "/jobs", "notAvailable", "not available yet"),
    (job(x=None), "/x", "unknown", 'invalid item "x" in job description'),
    (job(**{"a/b": 1}), "/a~1b", "unknown", 'invalid item "a/b" in job description'),
]


@pytest.mark.parametrize(("document", "pointer", "code", "text"), BAD)
@pytest.mark.contract("S79", "S81", "S82", "S85", "S86", "S87", "S88", "U22", "U23")
def test_bad_document_is_refused_with_one_clear_problem(
    document: object, pointer: str, code: str | None, text: str
) -> None:
    found = problems(document)

    assert [problem["pointer"] for problem in found] == [pointer]
    assert found[0]["code"] == (code or found[0]["code"])
    assert text in found[0]["message"]


def test_all_problems_are_found_at_once() -> None:
    document = {
        "name": 5,
        "resources": {"cpus": 0, "x": 1},
        "labels": {"a b": "c"},
        "tasks": [{"runtime": "x"}, {"image": "a", "cmd": "'", "env": {"1": "x"}}],
        "inputs": [{"filename": ".."}],
        "artifacts": ["x"],
    }

    assert sorted(problem["pointer"] for problem in problems(document)) == [
        "/artifacts/0", "/inputs/0/content", "/inputs/0/filename", "/labels/a b", "/name",
        "/resources/cpus", "/resources/x", "/tasks/0/image", "/tasks/0/runtime", "/tasks/1/cmd",
        "/tasks/1/env/1",
    ]  # fmt: skip


def test_very_many_problems_are_cut() -> None:
    document = JOB | {f"x{number}": 1 for number in range(100_000)}

    assert len(problems(document)) == 100


def test_long_values_are_not_repeated_in_full() -> None:
    for found in problems(
        {"tasks": [{"image": "x" * 10_000, "y" * 10_000: 1}], "name": "z" * 9999}
    ):
        assert len(found["message"]) < 300
