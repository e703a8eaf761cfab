"""Slurm, where this machine is part of a running cluster; nothing is installed or started for it."""

import shutil
import subprocess
import time
from pathlib import Path

from tests.servers import run
from tests.wait import wait_until


class SlurmPeer:
    def __init__(self, load: tuple[str, ...], marks: Path) -> None:
        self._load = load
        self._marks = marks
        self._number = 0

    def is_there(self) -> bool:
        if not shutil.which("sbatch") or not shutil.which("sinfo"):
            return False
        asked = subprocess.run(
            ["sinfo", "-h"], capture_output=True, text=True, timeout=20, check=False
        )
        return asked.returncode == 0 and "idle" in asked.stdout

    def start_latency(self) -> float:
        """Seconds from `sbatch` to the start of the program."""
        self._number += 1
        mark = self._marks / f"slurm-{self._number}"
        command = " ".join([*self._load, "stamp", str(mark), "0"])
        begun = time.time()
        run(["sbatch", "-Q", "-o", "/dev/null", "-e", "/dev/null", "--wrap", command])
        wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), 60)
        return int(mark.read_text().split()[0]) / 1e9 - begun
