"""What a figure depends on beside the code: the machine, the versions, the load."""

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from tests.stack import PROJECT

PACKAGES = ("Django", "celery", "redis", "psycopg2-binary", "uvicorn", "msgspec")
PROGRAMS = {
    "PostgreSQL": ("psql", "--version"),
    "Redis": ("redis-server", "--version"),
    "Apptainer": ("apptainer", "--version"),
    "udocker": ("udocker", "--version"),
    "bubblewrap": ("bwrap", "--version"),
    "gcc": ("gcc", "--version"),
}


def surroundings() -> dict[str, str]:
    """In the order in which they are shown."""
    found = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": _output("git", "-C", str(PROJECT), "describe", "--always", "--dirty"),
        "processors": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{_memory_gb():.0f} GB",
        "kernel": platform.release(),
        "load when it began": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
    }
    found |= {name: metadata.version(name) for name in PACKAGES}
    for name, argv in PROGRAMS.items():
        text = _output(*argv) if shutil.which(argv[0]) else ""
        version = re.search(r"\d+(?:\.\d+)+", text)
        found[name] = version[0] if version else "not there"
    return found


def _output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
