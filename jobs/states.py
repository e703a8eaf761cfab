"""States, reasons and their consequences: pure tables and functions over plain values.

Owns the public words of a job's life, which change may follow which, and what each reason means. No ORM, no clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from django.db.models import TextChoices


class JobStatus(TextChoices):
    """The contract's words (S10-S15)."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    DELETED = "deleted"
    KILLED = "killed"
    FAILED = "failed"


ACTIVE = frozenset({JobStatus.PENDING, JobStatus.RUNNING})
TERMINAL = frozenset(JobStatus) - ACTIVE
# pending -> completed is not legal: a job that ended was running, and both events are written even if heard at once.
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset(
        {JobStatus.RUNNING, JobStatus.DELETED, JobStatus.FAILED, JobStatus.KILLED}
    ),
    JobStatus.RUNNING: frozenset({JobStatus.PENDING, *TERMINAL}),
    **{status: frozenset() for status in TERMINAL},
}


class AttemptStatus(TextChoices):
    """assigned: offered to a node.  claimed: the node has it.  running: the first task's process started."""

    ASSIGNED = "assigned"
    CLAIMED = "claimed"
    RUNNING = "running"
    ENDED = "ended"


class Outcome(TextChoices):
    """Decides retries, dependencies and workflow status (D1); empty while a job is active."""

    WELL = "well"
    BADLY = "badly"


class Fault(StrEnum):
    """Whose fault an end was; who has to act."""

    NONE = "none"
    USER = "user"
    RESOURCES = "resources"
    IMAGE = "image"
    DATA = "data"
    NODE = "node"
    SITE = "site"
    PLATFORM = "platform"


class Reason(TextChoices):
    """Why a job changed its state. Code chooses one of these; REASONS says what follows."""

    SUBMITTED = "submitted", ""
    STARTED = "started", ""
    FINISHED = "finished", ""
    EXIT_CODE = "exitCode", "Executable exited with a non-zero exit code"
    WALLTIME = "walltime", "Walltime limit exceeded"
    IMAGE_PULL = "imagePull", "Container image pull failed"
    IMAGE_NOT_FOUND = "imageNotFound", "Container image pull failed"
    IMAGE_DENIED = "imageDenied", "Container image pull failed"
    IMAGE_UNUSABLE = "imageUnusable", "Container image pull failed"
    IMAGE_RATE_LIMITED = "imageRateLimited", "Container image pull failed"
    IMAGE_REGISTRY_AWAY = "imageRegistryAway", "Container image pull failed"
    IMAGE_NO_SPACE = "imageNoSpace", "Container image pull failed"
    STAGE_IN = "stageIn", "Artifact download failed"
    UNPACK = "unpack", "Artifact uncompress failed"
    INPUTS = "inputs", "Input files could not be fetched"
    MEMORY = "memory", "Job used too much memory"
    DISK = "disk", "Job used too much disk"
    OUTPUT_MISSING = "outputMissing", "Stageout failed due to no such file or directory"
    OUTPUT_ARCHIVE = "outputArchive", "Stageout failed due to tarball creation failed"
    OUTPUT_TOO_LARGE = "outputTooLarge", "Output is larger than allowed"
    STAGE_OUT = "stageOut", "Unable to stageout output to object storage"
    NOT_STARTED = "commandNotStarted", "Unable to execute task(s)"
    DELETED_BY_USER = "deletedByUser", "Job deleted by user"
    GIVEN_BACK = "givenBack", "Given back by the node before it started"
    NEVER_STARTED = "neverStarted", "The node ended it before it started"
    SHIM_LOST = "shimLost", "Its supervisor on the node died"
    LEASE_EXPIRED = "leaseExpired", "The node lost contact and stopped it"
    NODE_LOST = "nodeLost", "The node was lost"
    NODE_ERROR = "nodeError", "The node could not run it"
    RUNTIME_MISSING = "runtimeMissing", "The node lacks the container runtime"
    EVICTED = "evicted", "Job was evicted"
    NO_RESOURCES = "noResources", "No matching resources"
    QUEUE_TIME = "queueTime", "Maximum time queued was exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What follows from a reason when an attempt ends.

    status: the job's status if it is not run again.  retry: may it run again?  counted: against `maximumRetries`?
    retry_larger: may it run again if it gets more of what it lacked?
    """

    status: JobStatus
    fault: Fault
    retry: bool = False
    counted: bool = True
    retry_larger: bool = False


def _counted(status: JobStatus, fault: Fault) -> Meaning:
    """Tried again while `maximumRetries` allows."""
    return Meaning(status=status, fault=fault, retry=True)


def _elsewhere(fault: Fault) -> Meaning:
    """Not the user's affair: tried again elsewhere, uncounted."""
    return Meaning(status=JobStatus.FAILED, fault=fault, retry=True, counted=False)


REASONS: dict[Reason, Meaning] = {
    Reason.FINISHED: Meaning(status=JobStatus.COMPLETED, fault=Fault.NONE),
    Reason.DELETED_BY_USER: Meaning(status=JobStatus.DELETED, fault=Fault.USER),
    Reason.EXIT_CODE: _counted(JobStatus.COMPLETED, Fault.USER),
    Reason.OUTPUT_MISSING: _counted(JobStatus.FAILED, Fault.USER),
    Reason.OUTPUT_TOO_LARGE: Meaning(status=JobStatus.FAILED, fault=Fault.USER),
    # The same limits would end it the same way again; more memory may help (`retryMemoryFactor`).
    Reason.WALLTIME: Meaning(status=JobStatus.KILLED, fault=Fault.RESOURCES),
    Reason.MEMORY: Meaning(status=JobStatus.KILLED, fault=Fault.RESOURCES, retry_larger=True),
    Reason.DISK: Meaning(status=JobStatus.KILLED, fault=Fault.RESOURCES),
    Reason.OUTPUT_ARCHIVE: _counted(JobStatus.FAILED, Fault.RESOURCES),
    Reason.IMAGE_PULL: _counted(JobStatus.FAILED, Fault.IMAGE),
    # Asking again gives the same answer.
    Reason.IMAGE_NOT_FOUND: Meaning(status=JobStatus.FAILED, fault=Fault.IMAGE),
    Reason.IMAGE_DENIED: Meaning(status=JobStatus.FAILED, fault=Fault.USER),
    Reason.IMAGE_UNUSABLE: Meaning(status=JobStatus.FAILED, fault=Fault.IMAGE),
    # The node has waited already; a wrong host name looks the same as a registry that is away.
    Reason.IMAGE_RATE_LIMITED: _elsewhere(Fault.SITE),
    Reason.IMAGE_REGISTRY_AWAY: _counted(JobStatus.FAILED, Fault.IMAGE),
    Reason.IMAGE_NO_SPACE: _elsewhere(Fault.NODE),
    Reason.NOT_STARTED: _counted(JobStatus.FAILED, Fault.IMAGE),
    Reason.STAGE_IN: _counted(JobStatus.FAILED, Fault.DATA),
    Reason.UNPACK: _counted(JobStatus.FAILED, Fault.DATA),
    Reason.INPUTS: _elsewhere(Fault.PLATFORM),
    Reason.STAGE_OUT: _elsewhere(Fault.PLATFORM),
    Reason.GIVEN_BACK: _elsewhere(Fault.NONE),
    Reason.NEVER_STARTED: _elsewhere(Fault.NODE),
    Reason.SHIM_LOST: _elsewhere(Fault.NODE),
    Reason.LEASE_EXPIRED: _elsewhere(Fault.NODE),
    Reason.NODE_LOST: _elsewhere(Fault.NODE),
    Reason.NODE_ERROR: _elsewhere(Fault.NODE),
    Reason.RUNTIME_MISSING: _elsewhere(Fault.NODE),
    Reason.EVICTED: Meaning(status=JobStatus.FAILED, fault=Fault.NODE),
    Reason.NO_RESOURCES: Meaning(status=JobStatus.FAILED, fault=Fault.RESOURCES),
    Reason.QUEUE_TIME: Meaning(status=JobStatus.FAILED, fault=Fault.SITE),
}

# A job that took this many nodes with it is more likely their fault's cause than its victim.
MAXIMUM_NODE_FAULTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a verdict depends on: the job as it stands when an attempt of it ends."""

    retries: int
    maximum_retries: int
    node_faults: int
    delete_requested: bool
    exit_code_is_well: bool = False  # `policies.reportJobSuccessOnTaskFailure` (U27)
    may_grow: bool = False  # `policies.retryMemoryFactor`


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a job whose attempt ended: `status` pending means it is queued again."""

    status: JobStatus
    reason: Reason
    outcome: Outcome | None
    counts_as_retry: bool = False
    counts_as_node_fault: bool = False
    with_more_memory: bool = False


def judge(reason: Reason, standing: Standing) -> Verdict:
    """Decide what follows when the current attempt of a job ends for `reason`.

    A requested deletion wins over everything: the user no longer wants any result.
    """
    if standing.delete_requested:
        reason = Reason.DELETED_BY_USER
    elif standing.exit_code_is_well and reason is Reason.EXIT_CODE:
        reason = Reason.FINISHED
    meaning = REASONS[reason]
    grows = meaning.retry_larger and standing.may_grow
    may_retry = (meaning.retry and meaning.counted) or grows
    if may_retry and standing.retries < standing.maximum_retries:
        return Verdict(
            status=JobStatus.PENDING,
            reason=reason,
            outcome=None,
            counts_as_retry=True,
            with_more_memory=grows,
        )
    if meaning.retry and not meaning.counted:
        is_fault = meaning.fault is not Fault.NONE
        if standing.node_faults + is_fault <= MAXIMUM_NODE_FAULTS:
            return Verdict(
                status=JobStatus.PENDING,
                reason=reason,
                outcome=None,
                counts_as_node_fault=is_fault,
            )
        reason, meaning = Reason.EVICTED, REASONS[Reason.EVICTED]
    outcome = Outcome.WELL if reason is Reason.FINISHED else Outcome.BADLY
    return Verdict(status=meaning.status, reason=reason, outcome=outcome)


def is_legal_path(statuses: list[JobStatus]) -> bool:
    """Do these statuses, in order, start with pending and follow TRANSITIONS?"""
    if not statuses or statuses[0] != JobStatus.PENDING:
        return False
    return all(after in TRANSITIONS[before] for before, after in pairwise(statuses))
