"""At the start: what earlier lives and earlier workers left on this machine.

Same incarnation: running shims are re-adopted, everything else in the journal is brought to its end.
New incarnation: all that runs under our uids and names is killed first, found without the data directory.
"""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from worker import tree
from worker.blocks import Block
from worker.cgroup import Group
from worker.files import wipe
from worker.handover import Maker, Result, RunMark, read_file
from worker.jobs import Jobs
from worker.journal import Journal, never_started
from worker.layout import DataDir, LifeDir
from worker.protocol import AttemptKey
from worker.running import exclude, open_shim
from worker.shim import shim_name
from worker.slots import Admission, Need
from worker.spawner import spawner_name

logger = logging.getLogger(__name__)


class StillRunning(Exception):
    """Something of an earlier life does not die: the node must not enrol."""


def kill_everything(blocks: Sequence[Block]) -> None:
    """Kill all shims and containers of this node, of whatever life, and wait until they are gone.

    The spawner too. Raises StillRunning.
    """
    names = {name(str(b.number)) for b in blocks for name in (shim_name, spawner_name)}
    uids = {uid for block in blocks for uid in block.uids} if os.getuid() == 0 else set()
    groups = [Group(node=str(block.number)) for block in blocks]

    def remaining() -> list[int]:
        # Shims first: they would report what is done to their jobs.
        shims = tree.processes_named(names)
        tree.kill_pids(shims)
        for group in groups:
            group.kill()
        found = tree.processes_of_uids(uids) if uids else {}
        tree.sweep_uids(set(found.values()))
        return [*shims, *found, *_marked(blocks)]

    if not tree.kill_until_gone(remaining):
        raise StillRunning(f"processes of an earlier life do not die: {remaining()}")


def _marked(blocks: Sequence[Block]) -> list[int]:
    if os.getuid() == 0:
        return []
    return [pid for block in blocks for pid in tree.processes_marked(f"{block.number}/")]


def remove_lives(data: DataDir, *, but: LifeDir | None = None) -> None:
    """Remove the directories of earlier incarnations."""
    for path in data.lives():
        if but is None or path != but.path:
            with suppress(OSError):
                wipe(path)


def take_over(journal: Journal, life: LifeDir, jobs: Jobs, admission: Admission) -> None:
    """After a restart in the same incarnation: bring each live entry of the journal to its end."""
    held = {str(item.key) for item in journal.held()}
    for path in life.jobs.iterdir():
        if path.name not in held:  # acknowledged, and then the worker died
            with suppress(OSError):
                wipe(path)
    for key in journal.live():
        mark = exclude(life.job(key))
        if mark is None or mark.maker is Maker.WORKER:
            journal.end(never_started(key, "the node's worker was restarted before it started"))
            _remove_whole(life.job(key).path)
        else:
            _take_over_begun(key, mark, life, jobs, admission)


def _remove_whole(path: Path) -> None:
    """Take the directory away at once: a shim that stands still before its `run` must not find the place free again."""
    gone = path.with_name(f".gone-{path.name}")
    with suppress(FileNotFoundError):
        path.rename(gone)
        wipe(gone)


def _take_over_begun(
    key: AttemptKey, mark: RunMark, life: LifeDir, jobs: Jobs, admission: Admission
) -> None:
    pidfd = open_shim(mark)
    ended = read_file(life.job(key).result, Result) is not None
    logger.info("%s taken over: %s", key, "ended" if ended else "running" if pidfd >= 0 else "lost")
    running = jobs.adopt(key, mark, pidfd)
    slot = None
    if not ended:
        need = Need(cpus=mark.cpus, memory_mb=mark.memory_mb, disk_mb=mark.disk_mb)
        slot = admission.adopt(mark.slot, need)

    def follow() -> None:
        try:
            jobs.follow_adopted(running)
        finally:
            if slot is not None:
                admission.leave(slot)

    threading.Thread(target=follow, name=f"job-{key}", daemon=True).start()
