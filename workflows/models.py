"""The rows of a workflow: graph, stages, joins and the values of factories. Jobs and chunks are rows of `jobs`.

`Workflow.status` and everything of `Stage` and `Join` change in `workflows.advance` alone, under the workflow's row
lock. Columns of a stage count whole chunks; what is under way is counted in the chunks themselves.
"""

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from workflows.states import StageStatus, WorkflowStatus


class Workflow(models.Model):
    """One workflow. `head`: its document without the jobs, which are the templates of its stages.

    `origin`: the workflow that this one is a rerun of; what ended well there is adopted by reference. `open_stages`:
    stages that are waiting or released. `broken`: a stage was skipped or had more failures than it tolerates.
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=512, blank=True)
    status = models.CharField(
        max_length=10, choices=WorkflowStatus.choices, default=WorkflowStatus.PENDING
    )
    head = models.JSONField()
    labels = models.JSONField(default=dict)
    size = models.PositiveIntegerField()
    open_stages = models.PositiveIntegerField()
    broken = models.BooleanField(default=False)
    leave_in_queue = models.BooleanField(default=False)
    origin = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="+")
    delete_requested_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["owner", "status", "id"], name="workflow_owner_status"),
            models.Index(
                fields=["owner", "-ended_at", "-id"],
                name="workflow_owner_ended",
                condition=Q(ended_at__isnull=False),
            ),
            models.Index(
                fields=["delete_requested_at"],
                name="workflow_deleting",
                condition=Q(delete_requested_at__isnull=False, ended_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"workflow {self.pk}"


class WorkflowLabel(models.Model):
    """A label as a row, for finding workflows by it."""

    workflow = models.ForeignKey(Workflow, on_delete=models.CASCADE, related_name="label_rows")
    key = models.CharField(max_length=63)
    value = models.CharField(max_length=63)

    class Meta:
        indexes = [models.Index(fields=["key", "value", "workflow"], name="workflow_label_lookup")]

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class ValueList(models.Model):
    """The values of a zip or a table; reruns and clones share them. `names`: its parameters."""

    names = models.JSONField()
    count = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"values {self.pk}"


class ValuePage(models.Model):
    """The values of one chunk: {name: [values]}."""

    values = models.ForeignKey(ValueList, on_delete=models.CASCADE, related_name="pages")
    number = models.PositiveIntegerField()
    columns = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["values", "number"], name="value_page")]

    def __str__(self) -> str:
        return f"page {self.number} of {self.values_id}"


class Join(models.Model):
    """A distinct parent set: the stages that wait for it are released together, once, when all parents have ended.

    `generation` counts the times its chord was armed anew; `armed`: there is a chord of this generation in Redis.
    """

    workflow = models.ForeignKey(Workflow, on_delete=models.CASCADE, related_name="joins")
    members = models.PositiveIntegerField()
    generation = models.PositiveIntegerField(default=1)
    armed = models.BooleanField(default=False)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["id"],
                name="join_armed",
                condition=Q(closed_at__isnull=True) & (Q(armed=True) | Q(generation__gt=1)),
            )
        ]

    def __str__(self) -> str:
        return f"join {self.pk}"


class Stage(models.Model):
    """One job of the workflow's document: a template, and as many instances of it as its factory makes.

    `template`: stored form of the job. `columns`: those of `jobs.births.columns_of`. `to_run`: ranges [first, last] of
    chunk numbers that run here; `chunks`: how many these are; `expanded`: how many have been expanded, in order.
    `adopted`: instances that ended well in `origin` and are not run again. `well`, `badly`: instances of whole chunks.
    """

    workflow = models.ForeignKey(Workflow, on_delete=models.CASCADE, related_name="stages")
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=512)
    status = models.CharField(
        max_length=10, choices=StageStatus.choices, default=StageStatus.WAITING
    )
    template = models.JSONField()
    columns = models.JSONField()
    factory = models.JSONField(null=True)
    values = models.ForeignKey(ValueList, on_delete=models.PROTECT, null=True, related_name="+")
    size = models.PositiveIntegerField()
    allowed = models.PositiveIntegerField(default=0)
    origin = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="+")
    adopted = models.PositiveIntegerField(default=0)
    to_run = models.JSONField()
    chunks = models.PositiveIntegerField()
    expanded = models.PositiveIntegerField(default=0)
    well = models.PositiveIntegerField(default=0)
    badly = models.PositiveIntegerField(default=0)
    waits_for = models.ForeignKey(
        Join, on_delete=models.CASCADE, null=True, related_name="children"
    )
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workflow", "position"], name="stage_position")
        ]
        indexes = [
            models.Index(
                fields=["id"],
                name="stage_expanding",
                condition=Q(status=StageStatus.RELEASED, expanded__lt=F("chunks")),
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def broken(self) -> bool:
        """Does it keep its children from running?"""
        return self.status == StageStatus.SKIPPED or self.badly > self.allowed

    @property
    def is_array(self) -> bool:
        """Do its instances have numbers in their names?"""
        return self.factory is not None

    def instance_name(self, number: int) -> str:
        """`<workflow>/<job>/<n>`, without the number for a single job (S130)."""
        path = f"{self.workflow.name}/{self.name}"
        return f"{path}/{number}" if self.is_array else path


class JoinParent(models.Model):
    """A parent of a join. Its chunks are members `first` and on of the join's chord."""

    join = models.ForeignKey(Join, on_delete=models.CASCADE, related_name="parent_rows")
    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="join_rows")
    first = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["join", "stage"], name="join_parent")]

    def __str__(self) -> str:
        return f"{self.stage_id} of {self.join_id}"
