"""Stage-in and stage-out of one job, as its shim calls them."""

import os
import signal
from pathlib import Path
from typing import Protocol

from worker.children import Action, Outcome, become_bare
from worker.files import boottime
from worker.handover import Orders
from worker.layout import JobDir
from worker.protocol import EndReason, RunSpec
from worker.runtimes.base import Identity
from worker.runtimes.identity import die_with_parent
from worker.runtimes.select import is_bare
from worker.staging.artifacts import BroughtIn, bring_in
from worker.staging.outputs import Collected, Collector, Output

MB = 1 << 20


UNWANTED = frozenset({EndReason.STOPPED, EndReason.LEASE_EXPIRED, EndReason.NODE_ERROR})
"""Reasons after which nobody waits for output files."""

Problem = tuple[EndReason, str]


def needs_private(spec: RunSpec) -> bool:
    """Whether a job needs a directory of its slot beside its scratch: bare processes without files do not."""
    staged = spec.artifacts or spec.output_files or spec.output_dirs
    return bool(staged) or not is_bare(task.runtime for task in spec.tasks)


class HaveDone(Protocol):
    """How the shim has a child do something; it obeys stops meanwhile, and may raise."""

    def __call__(self, action: Action, kind: type[Outcome]) -> Outcome: ...


class Staging:
    """`in_s`, `out_s`: how long it took; `outputs`: what was found."""

    def __init__(self, orders: Orders, job_dir: JobDir) -> None:
        self._orders = orders
        self._dir = job_dir
        self._identity = Identity(uid=orders.uid, gid=orders.gid)
        self.in_s: float | None = None
        self.out_s: float | None = None
        self.outputs: tuple[Output, ...] = ()

    def stage_in(self, have_done: HaveDone) -> Problem | None:
        """Input files, then artifacts; what is wrong with them."""
        self._place_inputs()
        if not self._orders.spec.artifacts:
            return None
        begin = boottime()
        brought = have_done(self._bring_in, BroughtIn)
        self.in_s = boottime() - begin
        return (brought.reason, brought.detail) if brought.reason else None

    def is_out_wanted(self, reason: EndReason | None) -> bool:
        """Whether a job that ended for this reason is to leave files."""
        spec = self._orders.spec
        return bool(spec.output_files or spec.output_dirs) and reason not in UNWANTED

    def stage_out(self, have_done: HaveDone) -> Problem | None:
        """Find all that is to be kept; what is wrong with the rest."""
        begin = boottime()
        found = have_done(self._collect, Collected)
        self.out_s = boottime() - begin
        self.outputs = found.outputs
        return (found.reason, found.detail) if found.reason else None

    def _place_inputs(self) -> None:
        """Files fetched by the worker, into the scratch, as the slot's own."""
        uid, gid = self._orders.uid, self._orders.gid
        for number, wanted in enumerate(self._orders.spec.inputs):
            target = self._dir.work
            *folders, name = Path(wanted.filename).parts
            for folder in folders:
                target /= folder
                if not target.is_dir():
                    target.mkdir(mode=0o700)
                    os.chown(target, uid, gid)
            target /= name
            (self._dir.inputs / str(number)).rename(target)
            target.chmod(0o700 if wanted.executable else 0o600)
            os.chown(target, uid, gid)

    def _bring_in(self) -> BroughtIn:
        """In a child: download and unpack all artifacts."""
        self._enter()
        spec = self._orders.spec
        return bring_in(
            spec.artifacts,
            work=self._dir.work,
            private=self._dir.private,
            limit_bytes=spec.disk_mb * MB,
        )

    def _collect(self) -> Collected:
        """In a child: find files, and make archives of directories."""
        self._enter()
        spec = self._orders.spec
        collector = Collector(
            work=self._dir.work,
            private=self._dir.private,
            limit_bytes=self._orders.output_file_bytes,
        )
        return collector.collect(spec.output_files, spec.output_dirs)

    def _enter(self) -> None:
        """Become the slot's user for good."""
        become_bare(self._identity)
        die_with_parent(signal.SIGKILL)  # a change of uid takes it back
        os.umask(0o022)
