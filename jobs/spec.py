"""The job document (guide, "Job JSON"): what a user may ask for, checked strictly and typed from there on.

Owns the document's fields and defaults, its stored form, and what scheduler and node need of it. Pure: no ORM, no
clock. Single values are checked in `jobs.fields`; texts for what is refused are in `jobs.refusals`.

    cpus      1..1024 cores           walltime        minutes, above 0, at most 10080 (a week), default 720 (S69)
    memory    GB, 0.001..32768        policies  see `jobs.policies`
    disk      1..1000000 GB           tasks 1..100, inputs 0..100, labels 0..100, env 0..1000 a task
    inputs    1,000,000 bytes a file after decoding (S88, C49)
    artifacts, outputFiles, outputDirs   0..100 each; `jobs.staging_fields`
    cmd, args 65,536 characters each, 262,144 in all

The stored form is the document as submitted, with resources and runtimes filled in, with sha256 and size in
place of the content of input files, and with secrets sealed (`jobs.secret_fields`).
"""

import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from jobs import fields, secret_fields, staging_fields
from jobs.notifications import Notifications, stored_notifications
from jobs.policies import PlacementPolicy, Policies, policy_key
from jobs.refusals import problems_of, screen
from jobs.shapes import Shape
from prominence.errors import InvalidDocument
from worker.protocol import ArtifactSpec, InputSpec, RunSpec, TaskSpec

STORED_VERSION = 1
DEFAULT_WALLTIME_MIN = 720.0
MB_PER_GB = 1024
SECONDS_A_MINUTE = 60

_DOCKER_TARBALL = (".tar", ".tgz", ".tar.gz")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Model):
    """What a job asks for on each node (S80)."""

    nodes: fields.Nodes = 1
    cpus: fields.Cpus = 1
    memory_gb: fields.MemoryGb = Field(default=1.0, alias="memory")
    disk_gb: fields.DiskGb = Field(default=10, alias="disk")
    walltime_min: fields.WalltimeMin = Field(default=DEFAULT_WALLTIME_MIN, alias="walltime")


class Task(_Model):
    """One container (S82). An empty `cmd` means the image's own entrypoint (S47)."""

    image: fields.Image
    asked_runtime: fields.Runtime | None = Field(default=None, alias="runtime")
    cmd: fields.Command = ""
    args: fields.Arguments = ()
    env: fields.Environment = Field(default_factory=dict)
    workdir: fields.Workdir | None = None
    type: fields.TaskType = fields.BASIC
    credential: secret_fields.Credential = Field(default=None, alias="imagePullCredential")
    app: staging_fields.AppName | None = None
    stdout: staging_fields.ScratchPath | None = None

    @model_validator(mode="after")
    def _apps_are_singularitys(self) -> "Task":
        """U8."""
        if self.app and self.runtime != fields.SINGULARITY:
            raise fields.reject("app", '"app" needs the runtime singularity')
        return self

    @property
    def runtime(self) -> str:
        """What was asked for, else what the image needs (S24-S26, D10)."""
        return self.asked_runtime or runtime_for(self.image)


class Input(_Model):
    """A small file written into the job's directory before its first task (S88); `content` is decoded."""

    filename: fields.Filename
    content: fields.Content
    executable: StrictBool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Artifact(_Model):
    """A file that is downloaded before the first task, and unpacked if it is an archive (S89, S90, U12, U13)."""

    url: staging_fields.ArtifactUrl
    executable: StrictBool = False
    mountpoint: staging_fields.Mountpoint | None = None


class JobDocument(_Model):
    """A valid job document."""

    name: fields.JobName = ""
    resources: Resources = Resources()
    labels: fields.Labels = Field(default_factory=dict)
    tasks: Annotated[tuple[Task, ...], BeforeValidator(fields.few_tasks)]
    inputs: Annotated[tuple[Input, ...], BeforeValidator(fields.few_inputs)] = ()
    notifications: Notifications = ()
    artifacts: Annotated[tuple[Artifact, ...], BeforeValidator(staging_fields.few_artifacts)] = ()
    output_files: staging_fields.OutputNames = Field(default=(), alias="outputFiles")
    output_dirs: staging_fields.OutputNames = Field(default=(), alias="outputDirs")
    policies: Policies = Policies()
    top_placement: PlacementPolicy | None = Field(default=None, alias="placement")  # C47

    @property
    def placement(self) -> dict[str, Any]:
        """The placement policy as JSON, wherever it was given; {} if it asks for nothing."""
        policy = self.policies.placement or self.top_placement
        return policy.document if policy else {}

    @model_validator(mode="after")
    def _mounts_stay(self) -> "JobDocument":
        """A sidecar could replace the directory while a later task is about to mount it."""
        if any(file.mountpoint for file in self.artifacts) and any(
            task.type == fields.SIDECAR for task in self.tasks
        ):
            raise fields.reject(
                "mountpoint", "a job with a sidecar cannot have artifacts with a mountpoint"
            )
        return self

    @property
    def memory_mb(self) -> int:
        return memory_mb(self.resources.memory_gb)

    @property
    def disk_mb(self) -> int:
        return self.resources.disk_gb * MB_PER_GB


def parse_job(document: object) -> JobDocument:
    """The typed form of a job document, as posted.

    Raises:
        InvalidDocument: with every problem at once.
    """
    known, problems = screen(document)
    try:
        job = JobDocument.model_validate(known)
    except ValidationError as error:
        raise InvalidDocument(problems + problems_of(error)) from None
    if problems:
        raise InvalidDocument(problems)
    return job


def runtime_for(image: str) -> str:
    """The runtime of a task that names none (S24-S26, D10): tarballs by URL or path need udocker."""
    is_file = image.startswith(("http://", "https://", "/"))
    path = urlsplit(image).path if "://" in image else image
    tarball = is_file and path.lower().endswith(_DOCKER_TARBALL)
    return fields.UDOCKER if tarball else fields.SINGULARITY


def stored_form(document: JobDocument) -> dict[str, Any]:
    """The JSON kept in `Job.spec`."""
    resources = document.resources
    stored: dict[str, Any] = {
        "version": STORED_VERSION,
        **document.model_dump(
            by_alias=True,
            exclude_unset=True,
            exclude={"inputs", "resources", "tasks", "policies", "top_placement", "notifications"},
        ),
        "resources": {
            "nodes": resources.nodes,
            "cpus": resources.cpus,
            "memory": _plain(resources.memory_gb),
            "disk": resources.disk_gb,
        },
        "tasks": [_stored_task(task) for task in document.tasks],
    }
    if "walltime_min" in resources.model_fields_set:
        stored["resources"]["walltime"] = _plain(resources.walltime_min)
    if policies := _stored_policies(document):
        stored["policies"] = policies
    if document.notifications:
        stored["notifications"] = stored_notifications(document.notifications)
    if document.inputs:
        stored["inputs"] = [_stored_input(file) for file in document.inputs]
    return stored


def run_spec(stored: Mapping[str, Any], *, env: Mapping[str, str] | None = None) -> RunSpec:
    """What a node runs, from a stored form; `env` is set in every task, secrets apart."""
    resources, policies = stored["resources"], stored.get("policies", {})
    walltime_min = resources.get("walltime", DEFAULT_WALLTIME_MIN)
    return RunSpec(
        name=stored.get("name", ""),
        tasks=tuple(_run_task(task) for task in stored["tasks"]),
        inputs=tuple(
            InputSpec(
                filename=file["filename"],
                sha256=file["sha256"],
                size=file["size"],
                executable=file.get("executable", False),
            )
            for file in stored.get("inputs", ())
        ),
        artifacts=tuple(_run_artifact(file) for file in stored.get("artifacts", ())),
        output_files=tuple(stored.get("outputFiles", ())),
        output_dirs=tuple(stored.get("outputDirs", ())),
        cpus=resources["cpus"],
        memory_mb=memory_mb(resources["memory"]),
        disk_mb=resources["disk"] * MB_PER_GB,
        nodes=resources["nodes"],
        walltime_s=float(walltime_min * SECONDS_A_MINUTE),
        env=dict(env or {}),
        task_retries=policies.get("maximumTaskRetries", 0),
        keep_going=policies.get("ignoreTaskFailures", False),
    )


def shape_of(document: JobDocument) -> str:
    """The shape of a job, as stored (`jobs.shapes`)."""
    runtimes = {task.runtime for task in document.tasks}
    return str(
        Shape(
            cpus=document.resources.cpus,
            memory_mb=document.memory_mb,
            disk_mb=document.disk_mb,
            udocker=fields.UDOCKER in runtimes,
            process=fields.PROCESS in runtimes,
            patient=document.policies.maximum_time_in_queue != 0,
            policy=policy_key(document.placement),
        )
    )


def kind_of(owner_id: int, document: JobDocument) -> str:
    """32 hex digits, equal for jobs of one owner with the same images and commands: they take about as long.

    Environment and inputs are left out on purpose: many short jobs often differ in a number there only. That such jobs
    take longer than they look is learnt from the first message that they hold up (`jobs.kinds`).
    """
    tasks = [[task.image, task.cmd, *task.args] for task in document.tasks]
    text = json.dumps([owner_id, tasks])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def memory_mb(memory_gb: float) -> int:
    """Whole MB, never less than asked for."""
    return max(1, math.ceil(memory_gb * MB_PER_GB))


def _stored_task(task: Task) -> dict[str, Any]:
    secret = {"env", "credential"}
    stored = task.model_dump(by_alias=True, exclude_unset=True, mode="json", exclude=secret)
    if "env" in task.model_fields_set:
        stored["env"] = secret_fields.sealed_env(task.env)
    if task.credential is not None:
        stored[secret_fields.CREDENTIAL] = secret_fields.sealed_credential(task.credential)
    return stored | {"runtime": task.runtime}


def _stored_policies(document: JobDocument) -> dict[str, Any]:
    """What was given; placement in one place (C47)."""
    policies = document.policies.model_dump(
        by_alias=True, exclude_unset=True, exclude_none=True, exclude={"placement"}, mode="json"
    )
    return policies | ({"placement": document.placement} if document.placement else {})


def _stored_input(file: Input) -> dict[str, Any]:
    stored = {"filename": file.filename, "size": len(file.content), "sha256": file.sha256}
    return stored | ({"executable": True} if file.executable else {})


def _run_task(stored: Mapping[str, Any]) -> TaskSpec:
    return TaskSpec(
        image=stored["image"],
        runtime=stored["runtime"],
        command=tuple(shlex.split(stored.get("cmd", ""))),
        args=tuple(stored.get("args", ())),
        env=secret_fields.plain_env(stored),
        workdir=stored.get("workdir"),
        sidecar=stored.get("type") == fields.SIDECAR,
        app=stored.get("app") or "",
        stdout=stored.get("stdout") or "",
    )


def _run_artifact(stored: Mapping[str, Any]) -> ArtifactSpec:
    folder, _, mountpoint = (stored.get("mountpoint") or "").partition(":")
    return ArtifactSpec(
        url=stored["url"],
        filename=staging_fields.artifact_name(stored["url"]),
        executable=stored.get("executable", False),
        folder=folder,
        mountpoint=mountpoint,
    )


def _plain(value: float) -> int | float:
    """4 for 4.0: as users write it."""
    return int(value) if value == int(value) else value
