"""The node as a whole: which life it lives, its parts and threads, and its end.

start ── same boot id, journal there ──► take over what runs ──► serve ── SIGTERM ──► end; jobs go on
  │                                                               │ └──── SIGQUIT ──► kill all; end
  └── else: kill all of earlier lives ──► enrol ──► serve         └ fenced ─► kill all ─► start anew
"""

import gc
import logging
import os
import queue
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from worker import container, enrol, sweep
from worker.api import NodeApi, Unauthorized
from worker.blocks import Block
from worker.boot import boot_id
from worker.consumer import Consumer, make_app
from worker.ctl import CtlReader, Words
from worker.jobs import Jobs, Place
from worker.journal import Journal
from worker.layout import DataDir
from worker.lease import Lease, make_lease
from worker.lines import Lines
from worker.output import OutputPump
from worker.protocol import Capacity, Enrolment, Keys, key_prefix
from worker.redis_link import connect
from worker.run import LeaseGuard, Runner
from worker.slots import Admission
from worker.spawner import Spawner
from worker.up import EventSender, Heart, Pulse, Uplink

logger = logging.getLogger(__name__)

LOOK_AHEAD = 4
"""Messages beyond the slots that may wait for room, at least; a quarter of the slots if that is more."""


class Command(Enum):
    """What the main thread is told by signals and by other threads."""

    LEAVE = "leave"
    KILL = "kill"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    server: str
    token_file: Path | None
    data: DataDir
    capacity: Capacity
    slots: int
    allow_shared_uid: bool
    image_cache_bytes: int
    image_pulls: int


class Node:
    """Built once per process; a new incarnation is a new process image."""

    def __init__(self, options: Options, blocks: Sequence[Block]) -> None:
        self._options = options
        self._blocks = blocks
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def run(self) -> Command:
        """Live until told to end; returns how. Raises EnrolmentRefused, StillRunning."""
        for number, command in (
            (signal.SIGTERM, Command.LEAVE),
            (signal.SIGINT, Command.LEAVE),
            (signal.SIGQUIT, Command.KILL),
        ):
            signal.signal(number, lambda *_, command=command: self._commands.put(command))
        data = self._options.data
        boot = boot_id(data.identity)
        enrolment = enrol.current(data, boot)
        if enrolment is None:
            sweep.kill_everything(self._blocks)
        spawner = Spawner(str(self._blocks[0].number), [b.descriptor for b in self._blocks])
        if enrolment is None:
            with self._interruptible():
                enrolment = self._enrol(boot)
        self._serve(enrolment, boot, spawner)
        return self._end(spawner)

    # ---- a new life

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """While nothing of ours runs, a signal simply ends the process."""
        names = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        before = [signal.signal(number, lambda *_: os._exit(0)) for number in names]
        yield
        for number, handler in zip(names, before, strict=True):
            signal.signal(number, handler)

    def _enrol(self, boot: str) -> Enrolment:
        options = self._options
        asked = enrol.Asked(
            boot=boot,
            capacity=options.capacity,
            runtimes=self._runtimes(),
            isolated=os.getuid() == 0,
        )
        api = NodeApi(options.server)
        enrolment, sent_at = enrol.enrol(api, options.data, asked, options.token_file)
        life = options.data.life(enrolment.incarnation)
        life.make()
        Journal(life.journal).close()
        make_lease(life.lease)
        Lease(life.lease, lease_s=enrolment.lease_s).renew(sent_at=sent_at)
        enrol.store_record(options.data, enrol.Record(boot=boot, enrolment=enrolment))
        sweep.remove_lives(options.data, but=life)
        logger.info("enrolled as %s, incarnation %d", enrolment.node_name, enrolment.incarnation)
        return enrolment

    def _runtimes(self) -> dict[str, str]:
        """What could run here. Whether bare processes may is for the server to say."""
        versions = {
            name: runtime.version()
            for name, runtime in container.runtimes(allow_process=True).items()
        }
        if os.getuid() != 0 and not self._options.allow_shared_uid:
            versions.pop("udocker", None)
        if not (versions.get("singularity") or versions.get("udocker")):
            logger.warning("neither Apptainer nor udocker works here: this node runs no containers")
        return {name: version for name, version in versions.items() if version}

    # ---- serving

    def _serve(self, enrolment: Enrolment, boot: str, spawner: Spawner) -> None:
        options = self._options
        life = options.data.life(enrolment.incarnation)
        journal = Journal(life.journal)
        lease = Lease(life.lease, lease_s=enrolment.lease_s)
        lines = Lines(
            client=connect(enrolment.redis_url),
            keys=Keys(key_prefix(enrolment.incarnation)),
            api=NodeApi(options.server, enrolment.node_token),
            journal=journal,
        )
        uplink = Uplink(journal)
        journal.on_event = uplink.wake.set
        pump = OutputPump(lines, window_bytes=enrolment.log_window_bytes)
        admission = Admission(options.capacity, options.slots)
        jobs = Jobs(self._place(enrolment), lines, pump=pump, spawner=spawner, admission=admission)
        pump.start()
        sweep.take_over(journal, life, jobs, admission)
        words = Words(
            uplink=uplink, journal=journal, lease=lease, stop=jobs.stop, forget=jobs.forget
        )
        runner = Runner(lines, lease=lease, admission=admission, jobs=jobs)
        EventSender(lines, uplink).start()
        Heart(
            lines,
            uplink,
            Pulse(boot=boot, every_s=enrolment.heartbeat_s, data=options.data.path),
            on_word=words.apply,
            on_unauthorized=lambda error, refused: self._unauthorized(
                error, redis_refused=refused, lease=lease
            ),
        ).start()
        CtlReader(connect(enrolment.redis_url), lines.keys, words, uplink).start()
        LeaseGuard(lease, jobs).start()
        app = make_app(enrolment.redis_url, enrolment.incarnation, runner.handle)
        look_ahead = max(LOOK_AHEAD, options.slots // 4)
        Consumer(app, concurrency=options.slots + look_ahead).start()
        gc.collect()
        gc.freeze()  # what is here now stays; looking through it again and again was a tenth of our work
        logger.info("serving incarnation %d as process %d", enrolment.incarnation, os.getpid())

    def _place(self, enrolment: Enrolment) -> Place:
        options = self._options
        life = options.data.life(enrolment.incarnation)
        root = os.getuid() == 0
        uids = [uid for block in self._blocks for uid in block.uids if uid != block.puller]
        return Place(
            life=life,
            images=options.data.images,
            image_cache_bytes=options.image_cache_bytes,
            image_pulls=options.image_pulls,
            node=str(self._blocks[0].number),
            uids=tuple(uids) if root else (os.getuid(),) * options.slots,
            puller=self._blocks[0].puller if root else os.getuid(),
            gid=None if root else os.getgid(),
            allow_shared_uid=options.allow_shared_uid,
            enrolment=enrolment,
        )

    def _unauthorized(self, error: Unauthorized, *, redis_refused: bool, lease: Lease) -> None:
        """The server says that this life is over, or by refusing us everywhere lets us know."""
        logger.warning("the server does not know this node's token: %s", error)
        if error.fenced or redis_refused or lease.left_s <= 0:
            self._commands.put(Command.FENCED)

    # ---- the end

    def _end(self, spawner: Spawner) -> Command:
        command = self._wait(spawner)
        logger.info("ending: %s", command.value)
        if command is not Command.LEAVE:
            sweep.kill_everything(self._blocks)
        if command is Command.FENCED:
            enrol.end_life(self._options.data)
        return command

    def _wait(self, spawner: Spawner) -> Command:
        while True:
            try:
                return self._commands.get(timeout=5.0)
            except queue.Empty:
                if not spawner.is_alive():
                    # Jobs go on; a new process image re-adopts them and has a new spawner.
                    logger.error("the spawner died: starting anew")
                    start_anew()


def start_anew() -> None:
    """Replace this process by a fresh one with the same command line. The pid stays."""
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own argv
