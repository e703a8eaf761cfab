"""The rows of a job's life. The database is the only truth; everything else is a hint or a copy.

Owns `Job`, `Chunk`, `Attempt`, `Placement`, `Event`, `Output`, `OutputFile`, `InputFile`, `IdempotencyKey`,
`Outbox`, `Kind`, `PlacementPolicy`. Status columns and the counters of chunks are written by `jobs.transition` alone.
Nothing here knows nodes, Redis or HTTP.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from jobs.states import AttemptStatus, JobStatus, Outcome, Reason


class JobQuerySet(models.QuerySet["Job"]):
    """Sets of jobs as users and the scheduler ask for them."""

    def of(self, owner_id: int) -> "JobQuerySet":
        return self.filter(owner_id=owner_id)

    def alone(self) -> "JobQuerySet":
        """Jobs that belong to no workflow: those of one are listed with it (C27e)."""
        return self.filter(workflow__isnull=True)

    def active(self) -> "JobQuerySet":
        """Those that have not ended."""
        return self.filter(status__in=[JobStatus.PENDING, JobStatus.RUNNING])

    def in_queue(self) -> "JobQuerySet":
        """What a plain list shows: active ones, and ended ones that stay until they are removed (C27a, S102)."""
        return self.filter(Q(status__in=[JobStatus.PENDING, JobStatus.RUNNING]) | Q(kept=True))

    def with_labels(self, labels: dict[str, str]) -> "JobQuerySet":
        """Jobs that carry every one of `labels` (C13, C27h): one indexed join a label."""
        jobs = self
        for key, value in labels.items():
            jobs = jobs.filter(pk__in=Label.objects.filter(key=key, value=value).values("job_id"))
        return jobs


class Chunk(models.Model):
    """Up to 1,000 instances of a stage of a workflow, expanded together; the counters are kept by `jobs.transition`.

    `workflow` and `stage` are numbers of rows that this room does not know. `size`: how many of its jobs run here.
    `counted`: its ends have been added to its stage, after which nothing of it changes any more.
    """

    workflow = models.BigIntegerField()
    stage = models.BigIntegerField()
    number = models.PositiveIntegerField()
    size = models.PositiveIntegerField()
    well = models.PositiveIntegerField(default=0)
    badly = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(null=True, blank=True)
    counted = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["stage", "number"], name="chunk_number")]
        indexes = [
            models.Index(
                fields=["workflow", "stage"], name="chunk_open", condition=Q(counted=False)
            )
        ]

    def __str__(self) -> str:
        return f"chunk {self.number} of stage {self.stage}"

    @property
    def ended(self) -> bool:
        return self.well + self.badly >= self.size


class Job(models.Model):
    """One job. `attempt` is the number of the current attempt, 0 before the first; late words carry another number.

    `queue_deadline`: it fails if it waits beyond that (S101); none once it has started. `kept`: `leaveInQueue` was
    asked for, and its user has not said that it may go (S102).
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=512, blank=True)
    status = models.CharField(max_length=10, choices=JobStatus.choices, default=JobStatus.PENDING)
    outcome = models.CharField(max_length=6, choices=Outcome.choices, blank=True)
    reason = models.CharField(max_length=20, choices=Reason.choices, blank=True)
    detail = models.TextField(blank=True)
    spec = models.JSONField()
    labels = models.JSONField(default=dict)
    shape = models.CharField(max_length=64)
    kind = models.CharField(max_length=32)
    image = models.CharField(max_length=512)
    command = models.TextField(blank=True)
    priority = models.IntegerField(default=0)
    workflow = models.BigIntegerField(null=True, blank=True)
    stage = models.BigIntegerField(null=True, blank=True)
    instance = models.PositiveIntegerField(null=True, blank=True)
    chunk = models.ForeignKey(
        Chunk, on_delete=models.PROTECT, null=True, blank=True, db_index=False, related_name="+"
    )
    attempt = models.PositiveIntegerField(default=0)
    queued = models.BooleanField(default=True)
    queued_at = models.DateTimeField(db_default=Now())
    retries = models.PositiveIntegerField(default=0)
    maximum_retries = models.PositiveIntegerField(default=0)
    retry_memory_factor = models.FloatField(null=True, blank=True)
    node_faults = models.PositiveIntegerField(default=0)
    exit_code_is_well = models.BooleanField(default=False)
    queue_deadline = models.DateTimeField(null=True, blank=True)
    kept = models.BooleanField(default=False)
    notifications = models.PositiveSmallIntegerField(default=0)
    delete_requested_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["owner", "status", "id"],
                name="job_owner_status",
                condition=Q(workflow__isnull=True),
            ),
            models.Index(
                fields=["owner", "-ended_at", "-id"],
                name="job_owner_ended",
                condition=Q(ended_at__isnull=False, workflow__isnull=True),
            ),
            models.Index(
                fields=["owner", "shape", "-priority", "id"],
                name="job_queue",
                condition=Q(queued=True),
            ),
            models.Index(fields=["queued_at"], name="job_queued_at", condition=Q(queued=True)),
            models.Index(
                fields=["queue_deadline"],
                name="job_queue_deadline",
                condition=Q(queued=True, queue_deadline__isnull=False),
            ),
            models.Index(fields=["owner", "id"], name="job_kept", condition=Q(kept=True)),
            models.Index(
                fields=["stage", "instance"],
                name="job_badly",
                condition=Q(outcome=Outcome.BADLY, stage__isnull=False),
            ),
        ]
        constraints = [
            # Expanding a chunk twice must be impossible, whoever tries.
            models.UniqueConstraint(
                fields=["stage", "instance"],
                name="job_instance",
                condition=Q(stage__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"job {self.pk}"


class PlacementPolicy(models.Model):
    """Where jobs must and would rather run: what the key in their shapes stands for. Never changed."""

    key = models.CharField(max_length=16, primary_key=True)
    document = models.JSONField()

    class Meta:
        verbose_name_plural = "placement policies"

    def __str__(self) -> str:
        return self.key


class Label(models.Model):
    """A label as a row, for finding jobs by it; `Job.labels` is what is shown."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="label_rows")
    key = models.CharField(max_length=63)
    value = models.CharField(max_length=63)

    class Meta:
        indexes = [models.Index(fields=["key", "value", "job"], name="label_lookup")]

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class Attempt(models.Model):
    """One try at running a job. Ended rows are never changed again."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    status = models.CharField(
        max_length=10, choices=AttemptStatus.choices, default=AttemptStatus.ASSIGNED
    )
    reason = models.CharField(max_length=20, choices=Reason.choices, blank=True)
    detail = models.TextField(blank=True)
    tasks = models.JSONField(default=list)
    max_memory_kb = models.BigIntegerField(null=True, blank=True)
    stage_in_s = models.FloatField(null=True, blank=True)
    stage_out_s = models.FloatField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="attempt_number")]

    def __str__(self) -> str:
        return f"{self.job_id}.{self.number}"


class Placement(models.Model):
    """Where one rank of an attempt runs, what it holds there, and how its log ended.

    `incarnation` is a number of `clouds.Incarnation`; this room does not know that one. `charged`: the node's capacity
    carries this placement; attempts of one batch share a slot, so only one of them is charged at a time.
    """

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="placements")
    rank = models.PositiveIntegerField(default=0)
    incarnation = models.BigIntegerField()
    node_name = models.CharField(max_length=128)
    site = models.CharField(max_length=128)
    cpus = models.PositiveIntegerField()
    memory_mb = models.PositiveIntegerField()
    disk_mb = models.PositiveIntegerField()
    batch = models.CharField(max_length=32, blank=True)
    charged = models.BooleanField(default=True)
    live = models.BooleanField(default=True)
    stdout_size = models.BigIntegerField(default=0)
    stderr_size = models.BigIntegerField(default=0)
    stdout_complete = models.BooleanField(null=True)
    stderr_complete = models.BooleanField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["attempt", "rank"], name="placement_rank")]
        indexes = [
            models.Index(fields=["incarnation"], name="placement_live", condition=Q(live=True)),
            models.Index(fields=["batch"], name="placement_batch", condition=Q(live=True)),
        ]

    def __str__(self) -> str:
        return f"{self.attempt} on {self.node_name}"


class Event(models.Model):
    """A change of a job's state, written in the transaction that made it: audit and debug story in one."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    attempt = models.PositiveIntegerField(default=0)
    before = models.CharField(max_length=10, choices=JobStatus.choices, blank=True)
    after = models.CharField(max_length=10, choices=JobStatus.choices)
    reason = models.CharField(max_length=20, choices=Reason.choices)
    detail = models.TextField(blank=True)
    actor = models.CharField(max_length=150)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["job", "id"], name="event_story")]

    def __str__(self) -> str:
        return f"{self.job_id}: {self.before} -> {self.after}"


class Stream(models.TextChoices):
    STDOUT = "stdout"
    STDERR = "stderr"


class Output(models.Model):
    """A stored piece [start, start + size) of what an attempt wrote: small ones inline, large ones as objects."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="outputs")
    attempt = models.PositiveIntegerField()
    rank = models.PositiveIntegerField(default=0)
    stream = models.CharField(max_length=6, choices=Stream.choices)
    start = models.BigIntegerField()
    size = models.BigIntegerField()
    data = models.BinaryField(null=True)
    key = models.CharField(max_length=256, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["job", "attempt", "rank", "stream", "start"], name="output_piece"
            )
        ]

    def __str__(self) -> str:
        return f"{self.job_id}.{self.attempt}.{self.rank} {self.stream} at {self.start}"


class OutputFile(models.Model):
    """A file that an attempt left (`outputFiles`), or a directory as a .tgz; wholly stored, in pieces.

    `name` is its path in the scratch; `number` counts from 0 in each attempt and rank.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="output_files")
    attempt = models.PositiveIntegerField()
    rank = models.PositiveIntegerField(default=0)
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=4096)
    directory = models.BooleanField(default=False)
    size = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["job", "attempt", "rank", "number"], name="output_file_number"
            )
        ]

    def __str__(self) -> str:
        return f"{self.job_id}.{self.attempt}.{self.rank}: {self.name}"


class InputFile(models.Model):
    """Content of a small input file (1 MB at most, S88), kept once per owner and digest.

    `used_at`: when something was last submitted with it.
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    sha256 = models.CharField(max_length=64)
    content = models.BinaryField()
    created_at = models.DateTimeField(db_default=Now())
    used_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "sha256"], name="input_digest")]
        indexes = [models.Index(fields=["used_at"], name="input_age")]

    def __str__(self) -> str:
        return self.sha256


class IdempotencyKey(models.Model):
    """What a request with an `Idempotency-Key` made: a job's (or a workflow's) number, as its answer repeats it.

    `digest` is a keyed hash of what was asked for.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, db_index=False, related_name="+"
    )
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=64)
    made = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="idempotency_key")]
        indexes = [models.Index(fields=["created_at"], name="idempotency_age")]

    def __str__(self) -> str:
        return self.key


class Outbox(models.Model):
    """Something that must happen after a commit. The row goes with its *effect*, not with its publication.

    topic and key name the handler and the thing; a due row is handled (again) until whoever sees the effect removes it.
    """

    topic = models.CharField(max_length=20)
    key = models.CharField(max_length=64)
    payload = models.JSONField(default=dict)
    due_at = models.DateTimeField(db_default=Now())
    tries = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = verbose_name_plural = "outbox"
        constraints = [models.UniqueConstraint(fields=["topic", "key"], name="outbox_key")]
        indexes = [models.Index(fields=["due_at"], name="outbox_due")]

    def __str__(self) -> str:
        return f"{self.topic} {self.key}"


class Kind(models.Model):
    """How long the last runs of the same owner, image and command took: short ones travel several to a message."""

    RECENT = 9
    SHORT_S = 1.0

    key = models.CharField(max_length=32, primary_key=True)
    recent_s = models.JSONField(default=list)
    short = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.key
