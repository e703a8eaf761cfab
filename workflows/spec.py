"""The workflow document (guide, "Workflows"): what a user may ask for, checked strictly and typed from there on.

Owns the document's fields, defaults and limits, and what submission needs of it. Every problem is reported at once,
each with a JSON pointer. Jobs are checked by `jobs.spec`, factories by `workflows.factory_spec`. Pure.

    jobs       1..10,000; a name is needed where dependencies or factories refer to it, else `job-<index>` is given
    instances  10,000,000 in all
    names      `<workflow>/<job>/<n>`: 512 characters in all
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from jobs import fields
from jobs.policies import Retries
from jobs.refusals import MAXIMUM_PROBLEMS
from jobs.spec import JobDocument, parse_job
from prominence.errors import InvalidDocument, Problem
from workflows.dag import find_cycle
from workflows.factories import Factory
from workflows.factory_spec import MAXIMUM_INSTANCES, parse_factory
from workflows.refusals import Path, below, problem, problems_of, shown
from workflows.states import Tolerance

MAXIMUM_JOBS = 10_000
MAXIMUM_EDGES = 100_000
MAXIMUM_NAME = 512
_NUMBER_LENGTH = 9  # "/" and the digits of the largest instance number
_CYCLE_SHOWN = 20


def tolerance(value: object) -> object:
    """A count, or a percentage as "10%"."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Tolerance(count=value)
    if isinstance(value, str) and value.endswith("%") and len(value) <= 20:
        try:
            percent = Decimal(value[:-1])
        except InvalidOperation:
            percent = Decimal(-1)
        if percent.is_finite() and 0 <= percent <= 100:
            return Tolerance(percent=percent)
    raise fields.reject(
        "tolerance", 'failureTolerance must be a whole number from 0, or a percentage as "10%"'
    )


class Policies(BaseModel):
    """How failures are met (S109). `maximumReruns` is accepted and, as upstream, without effect (U33)."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    maximum_retries: Retries | None = Field(default=None, alias="maximumRetries")
    maximum_reruns: Annotated[StrictInt, Field(ge=0, le=100, alias="maximumReruns")] = 0
    leave_in_queue: StrictBool = Field(default=False, alias="leaveInQueue")
    placement: Any = None
    failure_tolerance: Annotated[
        Tolerance, BeforeValidator(tolerance), Field(alias="failureTolerance")
    ] = Tolerance()


class _Envelope(BaseModel):
    """Everything but what is in the jobs and the factories."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: fields.JobName = ""
    labels: fields.Labels = Field(default_factory=dict)
    jobs: list[Any]
    dependencies: dict[StrictStr, tuple[StrictStr, ...]] = Field(default_factory=dict)
    factory: dict[str, Any] | None = None
    factories: list[Any] = Field(default_factory=list)
    policies: Policies = Policies()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """A job of the workflow: one stage. `factory` is an index into the workflow's factories, None for a single job."""

    name: str
    document: JobDocument
    tolerance: Tolerance
    factory: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowDocument:
    """A valid workflow. `head`: the document as submitted, apart from its jobs."""

    name: str
    labels: Mapping[str, str]
    leave_in_queue: bool
    jobs: tuple[PlannedJob, ...]
    factories: tuple[Factory, ...]
    dependencies: Mapping[str, tuple[str, ...]]
    head: Mapping[str, Any]

    def size_of(self, job: PlannedJob) -> int:
        return 1 if job.factory is None else self.factories[job.factory].count


def parse_workflow(document: object) -> WorkflowDocument:
    """The typed form of a workflow document, as posted.

    Raises:
        InvalidDocument: with every problem at once.
    """
    if not isinstance(document, dict):
        message = f"a workflow must be a JSON object, not {shown(document)}"
        raise InvalidDocument([problem((), "type", message)])
    try:
        envelope = _Envelope.model_validate(document)
    except ValidationError as error:
        raise InvalidDocument(problems_of(error)) from None
    return _Parser(envelope=envelope, document=document).run()


class _Parser:
    """One document on its way: problems are collected, and raised together."""

    def __init__(self, *, envelope: _Envelope, document: Mapping[str, Any]) -> None:
        self._envelope = envelope
        self._document = document
        self._problems: list[Problem] = []
        self._names: list[str] = []
        self._jobs: list[JobDocument | None] = []
        self._tolerances: list[Tolerance] = []
        self._factories: list[Factory] = []
        self._factory_of: dict[str, int] = {}

    def run(self) -> WorkflowDocument:
        self._count_jobs()
        self._stop_if_wrong()
        for index, job in enumerate(self._envelope.jobs):
            self._read_job(index, job)
        self._check_names()
        self._check_dependencies()
        self._read_factories()
        self._stop_if_wrong()
        self._check_size()
        self._stop_if_wrong()
        return self._result()

    def _say(self, path: Path, code: str, message: str) -> None:
        if len(self._problems) < MAXIMUM_PROBLEMS:
            self._problems.append(problem(path, code, message))

    def _stop_if_wrong(self) -> None:
        if self._problems:
            raise InvalidDocument(self._problems[:MAXIMUM_PROBLEMS])

    def _count_jobs(self) -> None:
        jobs = self._envelope.jobs
        if not jobs:
            self._say(("jobs",), "missing", "a workflow must contain jobs")
        elif len(jobs) > MAXIMUM_JOBS:
            self._say(("jobs",), "tooMany", f"at most {MAXIMUM_JOBS} jobs are allowed")

    # ---- jobs

    def _read_job(self, index: int, given: object) -> None:
        own, tolerance = self._own_policies(index, given)
        try:
            job = parse_job(own)
        except InvalidDocument as error:
            self._problems += below(("jobs", index), error.problems)
            job = None
        name = given.get("name") if isinstance(given, dict) else None
        self._names.append(name if isinstance(name, str) and name else f"job-{index}")
        self._jobs.append(job)
        self._tolerances.append(tolerance)

    def _own_policies(self, index: int, given: object) -> tuple[object, Tolerance]:
        """The job's document with the workflow's policies where it has none of its own, and without what is ours."""
        inherited = self._envelope.policies
        tolerated = inherited.failure_tolerance
        if not isinstance(given, dict):
            return given, tolerated
        policies = given.get("policies", {})
        if not isinstance(policies, dict):
            return given, tolerated
        policies = dict(policies)
        if "failureTolerance" in policies:
            tolerated = self._tolerance(index, policies.pop("failureTolerance"))
        if inherited.placement and "placement" not in policies:
            policies["placement"] = inherited.placement
        if inherited.maximum_retries is not None and "maximumRetries" not in policies:
            policies["maximumRetries"] = inherited.maximum_retries
        return (
            given | {"policies": policies} if policies or "policies" in given else given
        ), tolerated

    def _tolerance(self, index: int, value: object) -> Tolerance:
        try:
            found = tolerance(value)
        except PydanticCustomError as error:
            where = ("jobs", index, "policies", "failureTolerance")
            self._say(where, "tolerance", error.message())
            return Tolerance()
        assert isinstance(found, Tolerance)  # noqa: S101 what the function returns
        return found

    def _check_names(self) -> None:
        counts = Counter(self._names)
        prefix = len(self._envelope.name) + 1 + _NUMBER_LENGTH
        for index, name in enumerate(self._names):
            where = ("jobs", index, "name")
            if counts[name] > 1:
                message = f"all jobs must have unique names: {shown(name)} is used more than once"
                self._say(where, "duplicate", message)
            if prefix + len(name) > MAXIMUM_NAME:
                message = f"the names of workflow and job are longer than {MAXIMUM_NAME} together"
                self._say(where, "name", message)

    # ---- dependencies

    def _check_dependencies(self) -> None:
        known = set(self._names)
        before = len(self._problems)
        for parent, children in self._envelope.dependencies.items():
            if parent not in known:
                message = f"parent job {shown(parent)} is not actually defined"
                self._say(("dependencies", parent), "unknown", message)
            for index, child in enumerate(children):
                self._check_child(("dependencies", parent, index), child, children[:index], known)
        edges = sum(map(len, self._envelope.dependencies.values()))
        if edges > MAXIMUM_EDGES:
            message = f"at most {MAXIMUM_EDGES} dependencies are allowed"
            self._say(("dependencies",), "tooMany", message)
        elif len(self._problems) == before:
            self._refuse_cycle()

    def _check_child(
        self, where: Path, child: str, earlier: tuple[str, ...], known: set[str]
    ) -> None:
        if child not in known:
            self._say(where, "unknown", f"child job {shown(child)} is not actually defined")
        if len(earlier) < MAXIMUM_JOBS and child in earlier:
            self._say(where, "duplicate", f"child job {shown(child)} is named twice")

    def _refuse_cycle(self) -> None:
        cycle = find_cycle(self._envelope.dependencies)
        if cycle:
            names = cycle if len(cycle) <= _CYCLE_SHOWN else [*cycle[:_CYCLE_SHOWN], "…", cycle[-1]]
            message = f"the dependencies form a cycle: {' -> '.join(names)}"
            self._say(("dependencies", cycle[0]), "cycle", message)

    # ---- factories

    def _read_factories(self) -> None:
        given: list[tuple[Path, object]] = []
        if self._envelope.factory is not None:
            given.append((("factory",), self._envelope.factory))
        given += [(("factories", i), f) for i, f in enumerate(self._envelope.factories)]
        for at, document in given:
            self._read_factory(at, document)

    def _read_factory(self, at: Path, document: object) -> None:
        targets = self._targets(at, document)
        found = parse_factory(document, at, self._files(targets), self._problems)
        for name in targets:
            if name in self._factory_of:
                message = f"there is more than one factory for job {shown(name)}"
                self._say((*at, "jobs"), "duplicate", message)
            self._factory_of[name] = len(self._factories)
        if found:
            self._factories.append(found[1])

    def _targets(self, at: Path, document: object) -> list[str]:
        """The jobs a factory is applied to; all of them when it names none (D12)."""
        names = document.get("jobs") if isinstance(document, dict) else None
        if names is None:
            return list(self._names)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return []  # said by the factory's own check
        if not names:
            self._say((*at, "jobs"), "empty", "the jobs of a factory must not be an empty list")
        known = set(self._names)
        for index, name in enumerate(names):
            if name not in known:
                message = f"job {shown(name)} of a factory is not actually defined"
                self._say((*at, "jobs", index), "unknown", message)
        return [name for name in names if name in known]

    def _files(self, targets: list[str]) -> dict[str, bytes]:
        """Input files of the jobs of a factory, the first job's first."""
        documents = dict(zip(self._names, self._jobs, strict=True))
        chosen = [documents[name] for name in reversed(targets)]
        return {file.filename: file.content for job in chosen if job for file in job.inputs}

    def _check_size(self) -> None:
        total = sum(
            self._factories[self._factory_of[name]].count if name in self._factory_of else 1
            for name in self._names
        )
        if total > MAXIMUM_INSTANCES:
            message = f"a workflow may have at most {MAXIMUM_INSTANCES} jobs in all, not {total}"
            self._say((), "tooMany", message)

    # ---- the result

    def _result(self) -> WorkflowDocument:
        jobs = [
            PlannedJob(
                name=name,
                document=job,
                tolerance=tolerated,
                factory=self._factory_of.get(name),
            )
            for name, job, tolerated in zip(self._names, self._jobs, self._tolerances, strict=True)
            if job is not None
        ]
        return WorkflowDocument(
            name=self._envelope.name,
            labels=self._envelope.labels,
            leave_in_queue=self._envelope.policies.leave_in_queue,
            jobs=tuple(jobs),
            factories=tuple(self._factories),
            dependencies=self._envelope.dependencies,
            head={key: value for key, value in self._document.items() if key != "jobs"},
        )
