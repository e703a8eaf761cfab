"""The floor: processes started with nothing around them."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.servers import run

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"


def build_load(room: Path) -> tuple[str, ...]:
    """The command that benchmark jobs run: C where there is a compiler, else Python."""
    target = room / "load"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        shutil.copy(PROGRAMS / "load.py", room / "load.py")
        return (sys.executable, str(room / "load.py"))
    # Static: as little as possible between exec and main.
    run([compiler, "-O2", "-static", "-o", target, PROGRAMS / "load.c"])
    target.chmod(0o755)
    return (str(target),)


def exec_rate(load: tuple[str, ...], count: int) -> float:
    """fork + exec + wait of /bin/true a second, by two processes."""
    begun = time.monotonic()
    both = [subprocess.Popen([*load, "spawn", str(count // 2)]) for _ in range(2)]
    assert all(process.wait() == 0 for process in both)
    return count // 2 * 2 / (time.monotonic() - begun)
