"""Jobs as clients see them: the brief and the full form (S147-S151, C28-C31, C33b), plain functions over rows.

Owns the public key names. Absent is said by leaving a key out, never by null: clients crash on it (C29, C30).
Lists are built in pages, with a constant number of queries a page.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from django.db.models import F, Q

from jobs.models import InputFile, Job, JobQuerySet, OutputFile, Placement
from jobs.notifications import shown_notifications
from jobs.output_files import output_files_of, shown_outputs
from jobs.secret_fields import shown_task
from jobs.states import JobStatus, Reason

PAGE = 500
_COLUMNS = ("name", "status", "reason", "created_at", "started_at", "ended_at", "spec")
_BRIEF_TASK = ("image", "runtime", "cmd")
_TASK_RESULT = {
    "exit_code": "exitCode",
    "image_status": "imagePullStatus",
    "image_digest": "imageSha256",
    "image_pull_s": "imagePullTime",
    "wall_s": "wallTimeUsage",
    "cpu_s": "cpuTimeUsage",
    "max_rss_kb": "maxResidentSetSizeKB",
}


def brief_list(jobs: JobQuerySet) -> list[dict[str, Any]]:
    """Entries of a list (S149, S150): one query."""
    return [_brief(job) for job in jobs.only(*_COLUMNS).iterator(chunk_size=PAGE)]


def full_list(jobs: JobQuerySet) -> list[dict[str, Any]]:
    """Entries as describe shows them (C27i): one query, and three more a page."""
    return [
        entry for page in _pages(jobs.iterator(chunk_size=PAGE)) for entry in full_entries(page)
    ]


def full_entries(jobs: list[Job]) -> list[dict[str, Any]]:
    """The full form of jobs of one owner (S146-S148): three queries, however many jobs."""
    placements = _placements(jobs)
    contents = _contents(jobs)
    files = output_files_of(jobs)
    return [
        _full(job, placements.get(job.pk), contents) | _outputs(job, files.get(job.pk, []))
        for job in jobs
    ]


def _pages(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    while page := list(islice(jobs, PAGE)):
        yield page


def _brief(job: Job) -> dict[str, Any]:
    tasks = [{key: task[key] for key in _BRIEF_TASK if key in task} for task in job.spec["tasks"]]
    return _common(job) | {"tasks": tasks}


def _common(job: Job) -> dict[str, Any]:
    """What both forms show."""
    entry = {"id": job.pk, "name": job.name, "status": job.status, "events": _events(job)}
    if text := _status_reason(job):
        entry["statusReason"] = text
    return entry


def _events(job: Job) -> dict[str, int]:
    """Whole seconds since the epoch; a start only once it really started (C34)."""
    times = {"createTime": job.created_at, "startTime": job.started_at, "endTime": job.ended_at}
    return {key: _epoch(time) for key, time in times.items() if time is not None}


def _epoch(time: datetime) -> int:
    return int(time.timestamp())


def _status_reason(job: Job) -> str:
    """Why a job did not complete (S119), or why a waiting one is tried again."""
    if job.status in {JobStatus.COMPLETED, JobStatus.RUNNING} or not job.reason:
        return ""
    return str(Reason(job.reason).label)


def _full(job: Job, placement: Placement | None, contents: Mapping[str, bytes]) -> dict[str, Any]:
    spec = job.spec
    entry = _common(job) | {
        "resources": spec["resources"],
        "tasks": [shown_task(task) for task in spec["tasks"]],
    }
    if job.detail and "statusReason" in entry:
        entry["statusDetail"] = job.detail
    if job.labels:
        entry["labels"] = job.labels
    if spec.get("parameters"):
        entry["parameters"] = spec["parameters"]
    entry |= {key: spec[key] for key in ("policies", "artifacts") if spec.get(key)}
    if spec.get("inputs"):
        entry["inputs"] = [_input(file, contents) for file in spec["inputs"]]
    if spec.get("notifications"):
        entry["notifications"] = shown_notifications(spec)
    if placement is not None:
        entry["execution"] = _execution(job, placement)
    return entry


def _outputs(job: Job, files: list[OutputFile]) -> dict[str, Any]:
    entry = {}
    for key, directories in (("outputFiles", False), ("outputDirs", True)):
        if job.spec.get(key):
            entry[key] = shown_outputs(job, files, directories=directories)
    return entry


def _input(file: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
    """An input file as it was submitted (C33b)."""
    content = base64.b64encode(contents.get(file["sha256"], b"")).decode()
    entry = {"filename": file["filename"], "content": content}
    return entry | ({"executable": True} if file.get("executable") else {})


def _execution(job: Job, placement: Placement) -> dict[str, Any]:
    """Where the current attempt is or was, and what its tasks used (S120-S123)."""
    attempt = placement.attempt
    entry: dict[str, Any] = {
        "site": placement.site,
        "retries": job.retries,
        "provisionedResources": {
            "nodes": 1,
            "cpus": placement.cpus,
            "memory": _gigabytes(placement.memory_mb),
            "disk": _gigabytes(placement.disk_mb),
        },
        "tasks": [_task_result(result) for result in attempt.tasks],
    }
    if attempt.max_memory_kb is not None:
        entry["maxMemoryUsageKB"] = attempt.max_memory_kb
    if attempt.stage_in_s is not None:
        entry["stageInTime"] = attempt.stage_in_s
    if attempt.stage_out_s is not None:
        entry["stageOutTime"] = attempt.stage_out_s
    return entry


def _gigabytes(megabytes: int) -> int | float:
    whole, rest = divmod(megabytes, 1024)
    return megabytes / 1024 if rest else whole


def _task_result(result: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"retries": result.get("retries", 0)}
    for key, public in _TASK_RESULT.items():
        if result.get(key) not in {None, ""}:
            shown[public] = result[key]
    return shown


def _placements(jobs: Iterable[Job]) -> dict[int, Placement]:
    """Rank 0 of each job's current attempt, by job; one that has only been assigned says nothing yet (S147)."""
    ids = [job.pk for job in jobs if job.attempt]
    if not ids:
        return {}
    begun = Q(attempt__started_at__isnull=False) | Q(attempt__ended_at__isnull=False)
    placements = Placement.objects.select_related("attempt").filter(
        begun, rank=0, attempt__job__in=ids, attempt__number=F("attempt__job__attempt")
    )
    return {placement.attempt.job_id: placement for placement in placements}


def _contents(jobs: Iterable[Job]) -> dict[str, bytes]:
    """Contents of all input files of these jobs, by digest."""
    owner_ids = {job.owner_id for job in jobs}
    digests = {file["sha256"] for job in jobs for file in job.spec.get("inputs", ())}
    if not digests:
        return {}
    rows = InputFile.objects.filter(owner__in=owner_ids, sha256__in=digests)
    return {digest: bytes(data) for digest, data in rows.values_list("sha256", "content")}
