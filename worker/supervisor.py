"""One job's life in its shim: tasks in order, walltime, stops and the node's lease, the end of all its processes, and
the result last of all. Single threaded.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from worker import container, tree
from worker.cgroup import Group
from worker.children import Action, Outcome, exit_code, read_outcome, start_child
from worker.files import boottime, write_atomic
from worker.handover import NEWS, STREAMS, Orders, Result, Status, Stop, read_file
from worker.images import ImageLease
from worker.layout import JobDir
from worker.lease import LeaseFile
from worker.masking import mask_for
from worker.protocol import IMAGE_REASONS, EndReason, TaskResult
from worker.runtimes.base import Launch
from worker.runtimes.errors import RuntimeFailure
from worker.runtimes.select import is_bare
from worker.spool import Spool
from worker.staging.stage import Staging

logger = logging.getLogger(__name__)

WALLTIME_GRACE_S = 10.0
SETTLE_S = 0.02
"""A task that has ended by then needs no word of its start."""

POLL_S = 5.0
"""Longest sleep: a suspended machine must notice an expired lease soon after it wakes."""

_SIGNALLED = 128
"""Exit codes above it stand for signals, by the shells' convention."""

RESULT_TRIES = 60
"""A second apart: a full disk may get room when others end."""


class JobOver(Exception):
    """Ends the job early, for this reason."""

    def __init__(self, reason: EndReason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class _Usage:
    """Of one task: CPU seconds of all processes reaped, memory of the largest."""

    cpu_s: float = 0.0
    max_rss_kb: int = 0


class Supervisor:
    """The life of one job."""

    def __init__(
        self,
        orders: Orders,
        job_dir: JobDir,
        *,
        signals: int,
        lease: LeaseFile,
        tell: Callable[[bytes], None],
    ) -> None:
        self._orders = orders
        self._dir = job_dir
        hidden, cap = orders.hidden, orders.log_cap_bytes
        self._spools = [
            Spool(job_dir.log(name), cap_bytes=cap, mask=mask_for(hidden)) for name in STREAMS
        ]
        self._signals = signals
        self._lease = lease
        self._tell = tell
        self._poll = select.poll()
        for descriptor in (self._signals, *(spool.read_end for spool in self._spools)):
            self._poll.register(descriptor, select.POLLIN)
        self._containers = container.Containers(orders, job_dir)
        self._group = _group(orders)
        self._group_files = self._group.create() if self._group else ()
        self._tasks: list[TaskResult] = []
        self._started_at: float | None = None
        self._status_due: float | None = None
        self._walltime_left = orders.spec.walltime_s
        self._over: JobOver | None = None
        self._kill_at: float | None = None
        self._terminated = 0
        self._usage = _Usage()
        self._staging = Staging(orders, job_dir)

    def run(self) -> None:
        """Everything; the result is written when no process of the job is left."""
        try:
            self._run_tasks()
        except JobOver as over:
            self._over = self._over or over
        except RuntimeFailure as failure:
            self._over = JobOver(container.reason_of(failure), failure.detail)
        except Exception as error:  # the edge of a process: it ends in a legal state
            logger.exception("the shim of %s failed", self._orders.key)
            self._over = JobOver(EndReason.NODE_ERROR, f"{type(error).__name__}: {error}")
        self._kill_all()
        if self._started_at is not None and self._staging.is_out_wanted(_reason(self._over)):
            self._stage_out()
        self._write_result()

    def close(self) -> None:
        for spool in self._spools:
            spool.close()

    # ---- tasks

    def _run_tasks(self) -> None:
        self._stage_in()
        for index, task in enumerate(self._orders.spec.tasks):
            self._look()
            if self._over:
                break
            self._containers.check(task)
            pull_s = -1.0 if self._containers.is_ready(index) else self._prepare(index)
            with self._containers.acquire(index) as lease:
                result = self._try_task(index, lease, pull_s)
            self._tasks.append(result)
            if self._over or (result.exit_code and not self._orders.spec.keep_going):
                break
            if index + 1 < len(self._orders.spec.tasks):
                self._write_status()

    def _stage_in(self) -> None:
        """Inputs, and artifacts on the job's walltime. Raises JobOver."""
        problem = self._staging.stage_in(partial(self._have_done, walltime_s=self._walltime_left))
        self._walltime_left -= self._staging.in_s or 0.0
        if problem is not None:
            raise JobOver(*problem)

    def _stage_out(self) -> None:
        """Find what is to be kept, of badly ended jobs too; a problem counts only for a job that ended well."""
        ended, self._over, self._kill_at = self._over, None, None
        try:
            problem = self._staging.stage_out(self._have_done)
        except JobOver as over:
            self._over = ended or over
        else:
            well = ended is None and not any(task.exit_code for task in self._tasks)
            self._over = JobOver(*problem) if well and problem else ended
        self._kill_rest()

    def _prepare(self, index: int) -> float:
        """Image and container; returns the pull's duration. Raises JobOver."""
        begin = boottime()
        prepared = self._have_done(lambda: self._containers.prepare(index), container.Prepared)
        if prepared.reason is not None:
            if prepared.reason in IMAGE_REASONS:
                self._tasks.append(
                    TaskResult(image_pull_s=boottime() - begin, image_status="failed")
                )
            raise JobOver(prepared.reason, prepared.error)
        self._containers.pin(index, prepared.digest)
        return prepared.pull_s

    def _have_done(
        self, action: Action, kind: type[Outcome], *, walltime_s: float | None = None
    ) -> Outcome:
        """By a child, obeying stops meanwhile. Raises JobOver."""
        pid, reader = start_child(action)
        self._wait(pid, walltime_s=walltime_s, signal_group=False)
        data = read_outcome(reader)
        if self._over:
            raise self._over
        if not data:
            raise JobOver(EndReason.NODE_ERROR, "preparing or staging ended without a word")
        return msgspec.json.decode(data, type=kind)

    def _try_task(self, index: int, lease: ImageLease, pull_s: float) -> TaskResult:
        """Run a task, and again in place while it fails and may (U24); what a signal ended is not run again."""
        result = self._run_task(index, lease, pull_s)
        for number in range(self._orders.spec.task_retries):
            if self._over or not 0 < (result.exit_code or 0) <= _SIGNALLED:
                break
            result = self._run_task(index, lease, pull_s)
            result = msgspec.structs.replace(result, retries=number + 1)
        return result

    def _run_task(self, index: int, lease: ImageLease, pull_s: float) -> TaskResult:
        launch = self._containers.launch(index, lease)
        self._usage = _Usage()
        begin = boottime()
        pid = self._start(index, launch)
        if self._started_at is None:
            self._started_at = begin
            self._status_due = begin + SETTLE_S
        status = self._wait(pid, walltime_s=self._walltime_left, signal_group=launch.signal_group)
        wall_s = boottime() - begin
        self._walltime_left -= wall_s
        self._kill_rest()
        return TaskResult(
            exit_code=exit_code(status),
            image_pull_s=pull_s,
            image_status="cached" if pull_s < 0 else "pulled",
            image_digest=lease.image.digest,
            wall_s=round(wall_s, 6),
            cpu_s=round(self._usage.cpu_s, 6),
            max_rss_kb=self._usage.max_rss_kb,
        )

    def _start(self, index: int, launch: Launch) -> int:
        outputs = (self._spools[0].write_end, self._spools[1].write_end)
        task = self._orders.spec.tasks[index]
        if self._group is None and (
            pid := container.start_bare(launch, self._containers.identity, outputs)
        ):
            return pid
        enter = self._containers.enter(task)
        return container.start(launch, enter, outputs, self._group_files)

    # ---- waiting

    def _wait(self, pid: int, *, walltime_s: float | None, signal_group: bool) -> int:
        """Until this child ends; obeys stops, walltime and lease meanwhile. Returns its status."""
        descriptor = os.pidfd_open(pid)
        self._poll.register(descriptor, select.POLLIN)
        deadline = None if walltime_s is None else boottime() + walltime_s
        self._kill_at = None
        try:
            while True:
                ready = self._look(self._timeout_s(deadline))
                if descriptor in ready:
                    return self._reap(pid)
                if self._status_due is not None and boottime() >= self._status_due:
                    self._write_status()
                if deadline is not None and boottime() >= deadline and not self._over:
                    self._end_soon(JobOver(EndReason.WALLTIME), WALLTIME_GRACE_S)
                self._push(pid, signal_group=signal_group)
        finally:
            self._poll.unregister(descriptor)
            os.close(descriptor)

    def _timeout_s(self, deadline: float | None) -> float:
        now = boottime()
        limits = [POLL_S, self._lease.deadline(Path(self._orders.lease)) - now]
        if self._status_due is not None:
            limits.append(self._status_due - now)
        if deadline is not None and not self._over:
            limits.append(deadline - now)
        if self._kill_at is not None:
            limits.append(self._kill_at - now)
        return max(tree.SETTLE_S if self._over else 0.0, min(limits))

    def _look(self, timeout_s: float = 0.0) -> set[int]:
        """Wait for something to happen; move output, note stops and the end of the lease."""
        ready = {fd for fd, _ in self._poll.poll(int(timeout_s * 1000) + (timeout_s > 0))}
        for spool in self._spools:
            if spool.read_end in ready:
                spool.pump()
        if self._signals in ready:
            os.read(self._signals, tree.SIGINFO_BYTES)
        if self._signals in ready or (self._over is None and self._dir.stop.exists()):
            self._obey_stop(signalled=self._signals in ready)
        if self._lease.deadline(Path(self._orders.lease)) <= boottime():
            self._end_soon(JobOver(EndReason.LEASE_EXPIRED), 0.0)
        return ready

    def _obey_stop(self, *, signalled: bool) -> None:
        stop = read_file(self._dir.stop, Stop)
        if stop is not None:
            self._end_soon(JobOver(stop.reason), stop.grace_s)
        elif signalled:
            detail = "the job's supervisor was told to end on the node"
            self._end_soon(JobOver(EndReason.NODE_ERROR, detail), WALLTIME_GRACE_S)

    def _end_soon(self, over: JobOver, grace_s: float) -> None:
        """The first reason counts; the shortest grace does."""
        self._over = self._over or over
        kill_at = boottime() + grace_s
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)

    def _push(self, pid: int, *, signal_group: bool) -> None:
        """When the job is to end: TERM once, then KILL when the grace is over."""
        if self._over is None or self._kill_at is None:
            return
        if boottime() >= self._kill_at:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._kill_group()
        elif self._terminated != pid:
            self._terminated = pid
            with suppress(ProcessLookupError, PermissionError):
                (os.killpg if signal_group else os.kill)(pid, signal.SIGTERM)

    def _reap(self, pid: int) -> int:
        _, status, usage = os.wait4(pid, 0)
        self._usage.cpu_s += usage.ru_utime + usage.ru_stime
        self._usage.max_rss_kb = max(self._usage.max_rss_kb, usage.ru_maxrss)
        return status

    # ---- the end

    def _kill_rest(self) -> None:
        """Kill every descendant; complete, because orphans become our children."""
        self._kill_group()
        while self._reap_one():
            tree.kill_pids(tree.children())
            for spool in self._spools:
                spool.pump()  # a writer in the kernel must not wait for us
        for spool in self._spools:
            spool.drain()

    def _kill_group(self) -> None:
        if self._group is not None:
            self._group.kill()

    def _reap_one(self) -> bool:
        """Reap what has ended; False when no child is left."""
        try:
            while True:
                pid, _, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    select.select([], [], [], tree.SETTLE_S)
                    return True
                self._usage.cpu_s += usage.ru_utime + usage.ru_stime
                self._usage.max_rss_kb = max(self._usage.max_rss_kb, usage.ru_maxrss)
        except ChildProcessError:
            return False

    def _kill_all(self) -> None:
        """The last sweep: descendants, and on a node run by root whatever has the slot's uid."""
        self._kill_rest()
        if os.getuid() == 0:
            tree.sweep_in_place(self._orders.uid)
            if self._reap_one():
                self._kill_rest()

    def _write_status(self) -> None:
        self._status_due = None
        status = Status(started_at=self._started_at, tasks=tuple(self._tasks))
        with suppress(OSError):  # a full disk: the result will say it
            write_atomic(self._dir.status, msgspec.json.encode(status), durable=False)
            self._tell(NEWS)

    def _write_result(self) -> None:
        over = self._over or JobOver(EndReason.FINISHED)
        begun = [task.wall_s for task in self._tasks if task.wall_s is not None]
        result = Result(
            reason=over.reason,
            detail=over.detail,
            tasks=tuple(self._tasks),
            started_at=self._started_at,
            ended_at=boottime(),
            wall_s=sum(begun) if begun else None,
            max_memory_kb=self._group.peak_memory_kb() if self._group else None,
            stage_in_s=self._staging.in_s,
            stage_out_s=self._staging.out_s,
            outputs=self._staging.outputs,
            dropped=tuple(
                name for name, spool in zip(STREAMS, self._spools, strict=True) if spool.dropped
            ),
        )
        if self._group is not None:
            self._group.remove()
        # It need not be durable: after a loss of power this attempt is dead anyway.
        for _ in range(RESULT_TRIES):
            try:
                write_atomic(self._dir.result, msgspec.json.encode(result), durable=False)
            except OSError as error:
                logger.error("the result cannot be written: %s", error)
                time.sleep(1.0)
            else:
                return


def _group(orders: Orders) -> Group | None:
    """None for bare processes that have a uid of their own: the sweep finds them all, and a group costs more
    than a short program."""
    if os.getuid() == 0 and is_bare(task.runtime for task in orders.spec.tasks):
        return None
    return Group(node=orders.cgroup, job=str(orders.key))


def _reason(over: JobOver | None) -> EndReason | None:
    return None if over is None else over.reason
