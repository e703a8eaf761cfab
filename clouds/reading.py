"""Node words into the reports of `jobs`: a pure translation."""

from collections.abc import Sequence

import msgspec

from jobs.reports import ClaimReport, EndReport, LogFacts, Report, StartReport, TaskReport
from jobs.states import Reason
from worker.protocol import Claimed, Ended, EndReason, Event, LogEnd, Started, TaskEnded, TaskResult

_OTHERWISE = {
    EndReason.STOPPED: Reason.NODE_ERROR,  # a stop nobody asked for by deletion: the node's affair
}
GIVEN_BACK = "given back"


def to_reports(events: Sequence[Event]) -> list[Report]:
    """In the same order, one report an event."""
    return [_report(event) for event in events]


def _report(event: Event) -> Report:
    job_id, attempt = event.key.job, event.key.attempt
    match event:
        case Claimed():
            return ClaimReport(job_id=job_id, attempt=attempt)
        case Started():
            return StartReport(job_id=job_id, attempt=attempt, ago_s=event.ago_s)
        case TaskEnded():
            return TaskReport(
                job_id=job_id, attempt=attempt, index=event.task, result=_task(event.result)
            )
        case Ended():
            return EndReport(
                job_id=job_id,
                attempt=attempt,
                reason=_reason(event),
                detail=event.detail,
                tasks=[_task(task) for task in event.tasks],
                max_memory_kb=event.max_memory_kb,
                stage_in_s=event.stage_in_s,
                stage_out_s=event.stage_out_s,
                ago_s=event.ago_s,
                stdout=_log(event.stdout),
                stderr=_log(event.stderr),
            )


def _reason(event: Ended) -> Reason:
    if event.reason is EndReason.FINISHED:
        well = all(task.exit_code == 0 for task in event.tasks)
        return Reason.FINISHED if well else Reason.EXIT_CODE
    if event.reason is EndReason.NEVER_STARTED and event.detail == GIVEN_BACK:
        return Reason.GIVEN_BACK
    return _OTHERWISE.get(event.reason) or Reason(event.reason.value)


def _task(result: TaskResult) -> dict[str, object]:
    return msgspec.to_builtins(result)  # type: ignore[no-any-return]


def _log(end: LogEnd) -> LogFacts:
    return LogFacts(size=end.size, complete=end.complete)
