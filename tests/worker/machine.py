"""A node under test: the real program, in a directory of its own that slot users can reach."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.processes import kill_processes_of
from tests.wait import wait_until
from tests.worker.other_side import ONE_TIME_TOKEN, OtherSide
from worker import tree
from worker.blocks import BLOCKS, Block, directory
from worker.handover import RunMark, read_file
from worker.layout import DataDir, JobDir
from worker.protocol import AttemptKey
from worker.shim import shim_name
from worker.spawner import spawner_name

PROJECT = Path(__file__).parents[2]


class Machine:
    """Start, kill and restart the worker; look at what runs."""

    def __init__(self, side: OtherSide, *, cpus: int = 4) -> None:
        self.side = side
        self.cpus = cpus
        self.room = Path(tempfile.mkdtemp(prefix="prominence-node-"))
        self.room.chmod(0o755)
        self.data = DataDir(self.room / "data")
        self.log = self.room / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        token = self.room / "token"
        token.write_text(ONE_TIME_TOKEN)
        argv = [
            *(sys.executable, "-m", "worker", "--server", self.side.url),
            *("--token-file", str(token), "--data", str(self.data.path)),
            *("--node-cpus", str(self.cpus), "--node-memory", "8", "--node-disk", "64", *options),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=PROJECT)
        beats = len(self.side.beats)
        wait_until(lambda: len(self.side.beats) > beats, 30, dump=self.dump)

    def signal(self, number: signal.Signals) -> None:
        """Signal the worker and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        tree.kill_pids([pid for key in self.keys() if (pid := self.shim_of(key))])
        tree.kill_pids(self.of_jobs())
        kill_processes_of(self.room)
        shutil.rmtree(self.room, ignore_errors=True)

    def dump(self) -> str:
        return self.log.read_text()[-6000:] + "".join(
            f"\n{path}: {path.read_text()[-2000:]}"
            for path in self.room.glob("data/life-*/jobs/*/shim.log")
        )

    # ---- looking

    @property
    def blocks(self) -> list[Block]:
        """The blocks of uids that this node holds."""
        owner = str(self.data.path)
        files = [directory() / str(number) for number in range(BLOCKS)]
        return [
            Block(number=int(file.name), descriptor=-1)
            for file in files
            if file.exists() and file.read_text() == owner
        ]

    def of_jobs(self) -> list[int]:
        """Living processes of this node's jobs, wherever they went."""
        uids = {uid for block in self.blocks for uid in block.uids}
        return list(tree.processes_of_uids(uids)) if os.getuid() == 0 else []

    def shims(self) -> list[int]:
        return tree.processes_named({shim_name(str(block.number)) for block in self.blocks})

    def spawners(self) -> list[int]:
        return tree.processes_named({spawner_name(str(block.number)) for block in self.blocks})

    def job_dir(self, key: AttemptKey) -> JobDir:
        return self.data.life(self.side.incarnation).job(key)

    def keys(self) -> list[AttemptKey]:
        jobs = self.data.life(self.side.incarnation).jobs
        return [AttemptKey.parse(path.name) for path in jobs.glob("*.*.*")]

    def shim_of(self, key: AttemptKey) -> int:
        mark = read_file(self.job_dir(key).run, RunMark)
        return mark.pid if mark and tree.process_start(mark.pid) == mark.start else 0
