"""The wire between server and node: types, keys, versions. The only module of `worker` that server rooms import.

Owns every name and shape that crosses the line, in both directions. Holds no I/O, no Django, no policy.

Ways a word travels:

    offer    server -> node   key `offer`: one per (job, attempt, rank); the node takes it with GETDEL, once.
    message  server -> node   Celery task RUN_TASK on queue RUN_QUEUE: names offers to be claimed together. A hint.
    up       node -> server   stream `up`: entries {b"d": Up as JSON}. Events carry a sequence number that counts from
                              1 in each incarnation and has no gaps; the server keeps the highest contiguous one.
    ctl      server -> node   stream `ctl`: entries {b"d": Word as JSON}.
    out      node -> server   stream per (job, attempt, rank, stdout|stderr): entry id = end byte offset `N-0`.
    HTTPS    node -> server   `/node/v1/…` with the node token: enrol, heartbeat (Up in, Word out: the second path),
                              fetch, inputs, log segments, output files. See `clouds/node_api.py` for the other side.

Both sides ignore JSON fields they do not know; the server speaks VERSION and VERSION - 1.
"""

from enum import StrEnum

import msgspec

VERSION = 1
RUN_TASK = "prominence.run"
RUN_QUEUE = "jobs"

OUTPUT_PIECE_BYTES = 16 << 20
"""Output files travel and are stored in pieces of this size; the last one may be shorter."""

MAXIMUM_OUTPUT_FILES = 1000
"""Of one attempt: what globs match, and directories."""


class AttemptKey(msgspec.Struct, frozen=True, order=True, array_like=True):
    """One placement of one attempt: what a node runs."""

    job: int
    attempt: int
    rank: int = 0

    def __str__(self) -> str:
        return f"{self.job}.{self.attempt}.{self.rank}"

    @classmethod
    def parse(cls, text: str) -> "AttemptKey":
        """The reverse of str(). Raises ValueError."""
        job, attempt, rank = (int(part) for part in text.split("."))
        return cls(job, attempt, rank)


def key_prefix(incarnation: int) -> str:
    """The key space of one incarnation of a node; its Redis user can touch nothing else."""
    return f"n.{incarnation}:"


def redis_user(incarnation: int) -> str:
    return f"node.{incarnation}"


class Keys:
    """Redis key names inside one key space. Celery's own keys get the same prefix by `global_keyprefix`."""

    __slots__ = ("ctl", "prefix", "up")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.up = f"{prefix}up"
        self.ctl = f"{prefix}ctl"

    def offer(self, key: AttemptKey) -> str:
        return f"{self.prefix}offer:{key}"

    def out(self, key: AttemptKey, stream: str) -> str:
        """`stream` is "stdout" or "stderr"."""
        return f"{self.prefix}out:{key}:{stream}"


# ---- what to run


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One container. An empty `command` means the image's own entrypoint; `args` follow either.

    sidecar: runs beside the other tasks, from before the first to after the last of them.
    app: part of a Singularity image to run.   stdout: a file in the scratch that gets a copy of the output.
    """

    image: str
    runtime: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    workdir: str | None = None
    sidecar: bool = False
    app: str = ""
    stdout: str = ""


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A small file to be written into the scratch before the first task; fetched over HTTPS by its digest."""

    filename: str
    sha256: str
    size: int
    executable: bool = False


class ArtifactSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file to be downloaded into the scratch as `filename`, and unpacked if that names an archive.

    The directory `folder` of the scratch is seen at `mountpoint` as well, if that is given.
    """

    url: str
    filename: str
    executable: bool = False
    folder: str = ""
    mountpoint: str = ""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a node needs to run one job, secrets and file contents apart. Sizes: MB = 2**20 bytes."""

    name: str = ""
    tasks: tuple[TaskSpec, ...]
    inputs: tuple[InputSpec, ...] = ()
    artifacts: tuple[ArtifactSpec, ...] = ()
    output_files: tuple[str, ...] = ()  # glob patterns, relative to the scratch
    output_dirs: tuple[str, ...] = ()
    cpus: int = 1
    memory_mb: int = 1024
    disk_mb: int = 10240
    nodes: int = 1
    walltime_s: float = 43200.0
    env: dict[str, str] = {}
    task_retries: int = 0  # times a task that exits non-zero is run again in place
    keep_going: bool = False  # later tasks run although one has failed


class Offer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of an offer key. `spec` is absent when it is too large for Redis or has to be fetched anyway."""

    version: int = VERSION
    key: AttemptKey
    spec: RunSpec | None = None


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    keys: tuple[AttemptKey, ...]


class TaskSecrets(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Secrets of one task: variables, which are masked in its output, and the login for its image."""

    env: dict[str, str] = {}
    username: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "TaskSecrets(***)"


class Fetched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the node gets over HTTPS after the claim. `secret_env` and `secrets` never touch Redis, argv or a log.

    `secrets` has one entry for each task, or none at all. `age_s`: how long ago the job was submitted; the node
    adds when that was by its own clock, `submitted_at`.
    """

    key: AttemptKey
    spec: RunSpec
    secret_env: dict[str, str] = {}
    secrets: tuple[TaskSecrets, ...] = ()
    age_s: float = 0.0
    submitted_at: float = 0.0


class FetchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts that are not (or no longer) this node's are in `refused`."""

    items: tuple[Fetched, ...]
    refused: tuple[AttemptKey, ...] = ()


# ---- what happened


class EndReason(StrEnum):
    """Why an attempt ended, in the node's words. `jobs.states` maps each to status, fault and retry."""

    FINISHED = "finished"  # every task ran, or one exited non-zero: see the exit codes
    WALLTIME = "walltime"
    IMAGE_PULL = "imagePull"  # for a reason that nobody knows
    IMAGE_NOT_FOUND = "imageNotFound"
    IMAGE_DENIED = "imageDenied"
    IMAGE_UNUSABLE = "imageUnusable"
    IMAGE_RATE_LIMITED = "imageRateLimited"
    IMAGE_REGISTRY_AWAY = "imageRegistryAway"
    IMAGE_NO_SPACE = "imageNoSpace"
    STAGE_IN = "stageIn"
    UNPACK = "unpack"
    INPUTS = "inputs"
    MEMORY = "memory"
    DISK = "disk"
    OUTPUT_MISSING = "outputMissing"
    OUTPUT_ARCHIVE = "outputArchive"
    OUTPUT_TOO_LARGE = "outputTooLarge"
    STAGE_OUT = "stageOut"
    RUNTIME_MISSING = "runtimeMissing"
    COMMAND_NOT_STARTED = "commandNotStarted"  # the runtime could not start the container
    STOPPED = "stopped"  # the server asked for it; every process is gone
    NEVER_STARTED = "neverStarted"  # claimed, voided or given back, and no process of it ever ran
    SHIM_LOST = "shimLost"  # its supervisor died; its processes were killed
    LEASE_EXPIRED = "leaseExpired"
    NODE_ERROR = "nodeError"


IMAGE_REASONS = frozenset(reason for reason in EndReason if reason.value.startswith("image"))


class TaskResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task that was begun. Times in seconds; memory in KB (1024 bytes); `image_pull_s` is -1 from a cache."""

    exit_code: int | None = None
    image_pull_s: float | None = None
    image_status: str = ""
    image_digest: str = ""
    wall_s: float | None = None
    cpu_s: float | None = None
    max_rss_kb: int | None = None
    retries: int = 0


class LogEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one output stream ended: `size` bytes were written; [0, stored) went over HTTPS; `tail` is [stored, size).

    `complete` is False when bytes were dropped (over the cap, spool disk full, or files lost).
    """

    size: int = 0
    stored: int = 0
    tail: bytes = b""
    complete: bool = True


class Claimed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="claimed"):
    seq: int
    key: AttemptKey


class Started(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="started"):
    """The first task's process has started. `ago_s`: how long before this was sent (node clocks only measure)."""

    seq: int
    key: AttemptKey
    ago_s: float = 0.0


class TaskEnded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="task"):
    """Task `task` (from 0) of several ended; not sent for the last one, whose result is in Ended."""

    seq: int
    key: AttemptKey
    task: int
    result: TaskResult


class Ended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="ended"):
    """The last word on an attempt: no process of it is left, and none will start."""

    seq: int
    key: AttemptKey
    reason: EndReason
    detail: str = ""
    tasks: tuple[TaskResult, ...] = ()
    wall_s: float | None = None
    max_memory_kb: int | None = None
    stage_in_s: float | None = None
    stage_out_s: float | None = None
    stdout: LogEnd = LogEnd()
    stderr: LogEnd = LogEnd()
    ago_s: float = 0.0


Event = Claimed | Started | TaskEnded | Ended


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A line of the node's snapshot: an attempt in its journal whose end the server has not acknowledged."""

    key: AttemptKey
    phase: str  # "claimed", "running" or "ended"


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`number` counts up; the server's answer repeats it, and the lease runs from when that one was *sent*.

    `last_seq`: events up to here were sent before this heartbeat, so what the answer does not acknowledge was lost.
    """

    number: int
    boot: str
    held: tuple[Held, ...] = ()
    last_seq: int = 0
    disk_free_mb: int | None = None


class Up(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the up-stream, or the body of POST /node/v1/heartbeat."""

    version: int = VERSION
    events: tuple[Event, ...] = ()
    heartbeat: Heartbeat | None = None


class Word(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the server says to a node.

    answers: number of the heartbeat this answers: renews the lease.   ack: highest contiguous sequence number stored.
    stop: end these: kill what runs; an attempt not in the journal is voided (journalled, reported NEVER_STARTED).
    """

    answers: int | None = None
    ack: int | None = None
    stop: tuple[AttemptKey, ...] = ()


# ---- enrolment


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    cpus: int
    memory_mb: int
    disk_mb: int


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one of `token` (one-time) and `key` (the re-enrolment key of an earlier enrolment)."""

    version: int = VERSION
    token: str | None = None
    key: str | None = None
    boot: str
    hostname: str
    capacity: Capacity
    runtimes: dict[str, str] = {}  # name -> version
    isolated: bool = False  # slots have uids of their own (the node runs as root)


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an enrolment. All of it is secret. `node_redis_url` carries user and password."""

    version: int = VERSION
    node: int
    node_name: str
    site: str
    incarnation: int
    node_token: str
    key: str
    redis_url: str
    api_url: str
    lease_s: float
    heartbeat_s: float
    mirrors: dict[str, str]
    log_window_bytes: int
    log_cap_bytes: int
    allow_process_runtime: bool = False
    output_file_bytes: int = 5 << 30


class NodeError(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every refusal of the node API. Code "fenced": kill everything and enrol anew."""

    error: str
    code: str = ""


_encoder = msgspec.json.Encoder()
_up = msgspec.json.Decoder(Up)
_word = msgspec.json.Decoder(Word)


def encode(value: msgspec.Struct) -> bytes:
    """Any of the types above as compact JSON."""
    return _encoder.encode(value)


def decode_up(data: bytes) -> Up:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    return _up.decode(data)


def decode_word(data: bytes) -> Word:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    return _word.decode(data)
