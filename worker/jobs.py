"""One attempt on this node, from its directory to its Ended event, as the worker sees it.

The shim does the work; here it is started, watched, stopped, and reported. A restarted worker takes
over at any point (`adopt`). Of threads that want different things for one attempt, the journal decides.
"""

import hashlib
import logging
import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from worker.api import ApiError, Refused
from worker.endings import Endings, news
from worker.files import boottime, wipe, write_atomic
from worker.handover import Orders, RunMark, Status, Stop, read_file
from worker.layout import LifeDir
from worker.lines import Lines
from worker.output import OutputPump
from worker.protocol import (
    AttemptKey,
    EndReason,
    Enrolment,
    Fetched,
    InputSpec,
)
from worker.running import Running, SlotShim
from worker.slots import Admission, Slot
from worker.spawner import Spawner
from worker.staging.stage import needs_private

logger = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
PATIENCE_S = 10.0
"""Beyond the grace, before a shim that does not end its job is killed with it."""

FOLLOW_S = 1.0
"""Between two looks at a job that is quiet."""

INPUT_TRIES = 5
RETRY_S = 1.0


class StageInFailed(Exception):
    """An input file cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all jobs of a node have in common."""

    life: LifeDir
    images: Path
    image_cache_bytes: int
    image_pulls: int  # at a time
    node: str  # names control groups and processes
    uids: tuple[int, ...]  # one per slot
    puller: int
    gid: int | None  # None: each uid is its own group
    allow_shared_uid: bool
    enrolment: Enrolment


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotWork:
    """What the jobs of one message have in common. `on_long`: called when one of them has run for `long_s` seconds."""

    slot: Slot
    shim: SlotShim
    on_long: Callable[[], None]
    long_s: float


class Jobs:
    """All attempts of this node. Safe for many threads; each attempt is followed by one of them."""

    def __init__(
        self,
        place: Place,
        lines: Lines,
        *,
        pump: OutputPump,
        spawner: Spawner,
        admission: Admission,
    ) -> None:
        self._place = place
        self._journal = lines.journal
        self._api = lines.api
        self._pump = pump
        self._spawner = spawner
        self._admission = admission
        self._lock = threading.Lock()
        self._running: dict[AttemptKey, Running] = {}
        self._endings = Endings(
            place.node, lines.journal, pump, api=lines.api, on_gone=self._remove
        )
        self._endings.start()

    # ---- a job's life

    def run(self, item: Fetched, work: SlotWork) -> None:
        """Start one attempt and follow it to its end; nothing if it ended before it was begun."""
        running = self._add(item.key, self._place.uids[work.slot.number])
        if not self._journal.begin(item.key):
            self._remove(running)
            return
        try:
            self._set_up(item, running)
            work.shim.give(self._orders(item, running, work.slot))
        except StageInFailed as error:
            self._endings.end_unstarted(running, EndReason.INPUTS, str(error))
            return
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("%s could not be started: %s", item.key, error)
            self._endings.exclude(running)
            self._endings.end_unstarted(running, EndReason.NODE_ERROR, str(error))
            return
        running.attach(work.shim.pidfd)
        self._follow(running, work)
        running.detach()
        self._endings.finish(running)

    def shim(self) -> SlotShim:
        """For the jobs of one message; the caller closes it."""
        return SlotShim(self._spawner)

    def adopt(self, key: AttemptKey, mark: RunMark, pidfd: int) -> Running:
        """Take over an attempt that a shim began; `pidfd` is -1 when the shim is gone."""
        running = self._add(key, mark.uid)
        running.stop = read_file(running.dir.stop, Stop)
        running.stop_at = boottime()
        running.attach(pidfd)
        told = self._journal.adopt(key)
        running.started, running.tasks_told = told is not None, told or 0
        self._watch(running, resume=True)
        return running

    def follow_adopted(self, running: Running) -> None:
        """Until the attempt has ended and is reported: a shim whose worker died ends with its job."""
        while running.pidfd >= 0 and not _ended(running.pidfd, FOLLOW_S):
            self._tell(running)
            self._press(running)
        pidfd = running.detach()
        if pidfd >= 0:
            os.close(pidfd)
        self._endings.finish(running)

    def _follow(self, running: Running, work: SlotWork) -> None:
        """Until the shim is done with it, or gone."""
        begin = boottime()
        told = False
        while not work.shim.wait(FOLLOW_S if told else min(FOLLOW_S, work.long_s)):
            if not told and boottime() - begin >= work.long_s:
                told = True
                work.on_long()
            if not running.watched:
                self._watch(running)
            self._tell(running)
            self._press(running)

    def _watch(self, running: Running, *, resume: bool = False) -> None:
        """Only what lasts for some time: setting this up costs as much as a short program."""
        logger.info(
            "%s runs in %s", running.key, "the slot it had" if resume else f"uid {running.uid}"
        )
        try:
            self._pump.watch(running.key, running.dir, resume=resume)
            running.watched = True
        except OSError as error:
            logger.error("the output of %s cannot be followed: %s", running.key, error)

    def stop(self, key: AttemptKey) -> None:
        """The server's word: end it, whatever state it is in. Does not wait."""
        running = self._find(key)
        try:
            self._stop(key, running)
        except sqlite3.Error as error:
            logger.error("that %s is to stop cannot be recorded: %s", key, error)
            if running is not None:
                running.ask_to_end(Stop(reason=EndReason.STOPPED, grace_s=STOP_GRACE_S))

    def _stop(self, key: AttemptKey, running: Running | None) -> None:
        if self._journal.void(key, "voided before it arrived"):
            logger.info("%s voided", key)
        elif self._journal.give_up(key, "stopped before it started"):
            logger.info("%s stopped before it started", key)
            self._admission.look_again()
        elif running is not None:
            logger.info("%s is to stop", key)
            running.ask_to_end(Stop(reason=EndReason.STOPPED, grace_s=STOP_GRACE_S))

    def stop_all(self, reason: EndReason) -> None:
        """Without grace; what did not start will not."""
        with self._lock:
            everything = list(self._running.values())
        for running in everything:
            running.ask_to_end(Stop(reason=reason, grace_s=0.0))

    def forget(self, keys: Iterable[AttemptKey]) -> None:
        """The server knows their ends: what a worker that died left of their directories may go."""
        for key in keys:
            path = self._place.life.job(key).path
            with suppress(OSError):
                if self._find(key) is None and path.exists():
                    wipe(path)

    # ---- starting

    def _set_up(self, item: Fetched, running: Running) -> None:
        """The directory with all that the job needs. Raises OSError and StageInFailed."""
        job_dir, uid, gid = running.dir, running.uid, self._gid(running.uid)
        job_dir.path.mkdir(mode=0o711, exist_ok=True)
        job_dir.path.chmod(0o711)
        for path in job_dir.slot_dirs(private=needs_private(item.spec)):
            path.mkdir(mode=0o700)
            os.chown(path, uid, gid)
        if item.spec.inputs:
            job_dir.inputs.mkdir(mode=0o700)
        for number, wanted in enumerate(item.spec.inputs):
            data = self._fetch_input(item.key, wanted)
            write_atomic(job_dir.inputs / str(number), data, durable=False)

    def _gid(self, uid: int) -> int:
        return uid if self._place.gid is None else self._place.gid

    def _orders(self, item: Fetched, running: Running, slot: Slot) -> Orders:
        place = self._place
        return Orders(
            key=item.key,
            dir=str(running.dir.path),
            spec=item.spec,
            secret_env=item.secret_env,
            secrets=item.secrets,
            submitted_at=item.submitted_at,
            uid=running.uid,
            gid=self._gid(running.uid),
            puller=place.puller,
            slot=slot.number,
            lease=str(place.life.lease),
            images=str(place.images),
            image_cache_bytes=place.image_cache_bytes,
            image_pulls=place.image_pulls,
            cgroup=place.node,
            mirrors=place.enrolment.mirrors,
            allow_process=place.enrolment.allow_process_runtime,
            allow_shared_uid=place.allow_shared_uid,
            log_cap_bytes=place.enrolment.log_cap_bytes,
            output_file_bytes=place.enrolment.output_file_bytes,
        )

    def _fetch_input(self, key: AttemptKey, wanted: InputSpec) -> bytes:
        path = Path(wanted.filename)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise StageInFailed(f"{wanted.filename!r} is not a name inside the scratch directory")
        for attempt in range(INPUT_TRIES):
            try:
                data = self._api.input_file(key, wanted.sha256)
            except Refused as error:
                raise StageInFailed(f"{wanted.filename}: {error}") from error
            except ApiError as error:
                logger.warning("%s: %s not fetched: %s", key, wanted.filename, error)
                time.sleep(RETRY_S * attempt)
                continue
            if hashlib.sha256(data).hexdigest() != wanted.sha256:
                raise StageInFailed(f"{wanted.filename}: what arrived has another digest")
            return data
        raise StageInFailed(f"{wanted.filename}: the server could not be reached")

    # ---- following

    def _tell(self, running: Running) -> None:
        """Report what the shim's status says and the server does not know yet."""
        status = read_file(running.dir.status, Status)
        if status is None:
            return
        events = news(running, status, last=len(status.tasks))
        if events:
            try:
                self._journal.report(running.key, events, told=len(status.tasks))
            except sqlite3.Error as error:
                logger.error("events of %s cannot be recorded: %s", running.key, error)
                return
            running.started = True
            running.tasks_told = len(status.tasks)

    def _press(self, running: Running) -> None:
        """A shim that does not obey is killed; the job with it, in `_finish`."""
        stop = running.stop
        if stop is not None and boottime() > running.stop_at + stop.grace_s + PATIENCE_S:
            logger.warning("the shim of %s does not end its job: killing both", running.key)
            running.kill_shim()

    # ---- the register

    def _add(self, key: AttemptKey, uid: int) -> Running:
        running = Running(key=key, dir=self._place.life.job(key), uid=uid)
        with self._lock:
            self._running[key] = running
        return running

    def _find(self, key: AttemptKey) -> Running | None:
        with self._lock:
            return self._running.get(key)

    def _remove(self, running: Running) -> None:
        with self._lock:
            self._running.pop(running.key, None)


def _ended(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(int(timeout_s * 1000)))
