"""The parts of an embedded stack: how each is started, and how one sees that it works.

Owns command lines and environments. A node gets none of the server's settings: it has no business with them.
"""

import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prominence.embedded.data_dir import DataDir
from prominence.embedded.processes import Command
from prominence.embedded.supervisor import Part
from prominence.embedded.valkey import Valkey

PROJECT = Path(__file__).resolve().parent.parent.parent
PREFIX = "PROMINENCE_"
PROBE_TIMEOUT_S = 2.0
# The environment may name a proxy for the outer world; our own parts are on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCapacity:
    """What a local node declares, whatever the machine has: any document of the guide can be tried."""

    cpus: int = 64
    memory_gb: int = 128
    disk_gb: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Makes the parts of the stack in `data`. `url` is the public address of the API."""

    data: DataDir
    url: str
    mirrors: str = ""

    def valkey(self, valkey: Valkey) -> Part:
        return Part(
            name="valkey",
            tier=0,
            command=Command(argv=valkey.prepare(), env=_outer_environment(), cwd=valkey.directory),
            is_ready=valkey.is_ready,
        )

    def registry(self, port: int) -> Part:
        """Demo images for loopback. Answers once all images are in it."""
        argv = _python("-m", "worker.serve_demo_images", "--data", str(self.data.registry))
        return Part(
            name="registry",
            tier=0,
            command=Command(
                argv=(*argv, "--port", str(port)), env=_outer_environment(), cwd=PROJECT
            ),
            is_ready=lambda: (
                _answers(f"http://127.0.0.1:{port}/v2/library/busybox/tags/list") == 200
            ),
        )

    def api(self, host: str, port: int) -> Part:
        argv = _python("manage.py", "api", "--host", host, "--port", str(port))
        return self._server_part("api", argv, lambda: _answers(f"{self.url}/health") > 0)

    def control(self) -> Part:
        """The control plane: ready when the API sees it work."""
        argv = _python("manage.py", "control")
        return self._server_part("control", argv, lambda: _answers(f"{self.url}/health") == 204)

    def worker(self) -> Part:
        """The Celery worker of the control plane: there when its process is; without it workflows go on more slowly."""
        return self._server_part("worker", _python("manage.py", "worker"), lambda: True)

    def node(
        self, name: str, token: Path, capacity: NodeCapacity, is_ready: Callable[[], bool]
    ) -> Part:
        """A node on this machine; SIGQUIT ends it with its jobs, a dead supervisor leaves them to their leases."""
        argv = _python(
            "-m", "worker",
            "--server", self.url.removesuffix("/api/v1"),
            "--token-file", str(token),
            "--data", str(self.data.node(name)),
            "--node-cpus", str(capacity.cpus),
            "--node-memory", str(capacity.memory_gb),
            "--node-disk", str(capacity.disk_gb),
        )  # fmt: skip
        return Part(
            name=f"node-{name}",
            tier=2,
            # What its jobs' users have to reach is for the node to decide.
            command=Command(argv=argv, env=_outer_environment(), cwd=PROJECT, umask=0o022),
            is_ready=is_ready,
            stop_signal=signal.SIGQUIT,
            stop_timeout_s=20.0,
            owns_group=False,
        )

    def _server_part(self, name: str, argv: tuple[str, ...], is_ready: Callable[[], bool]) -> Part:
        command = Command(argv=argv, env=self._server_environment(), cwd=PROJECT)
        return Part(name=name, tier=1, command=command, is_ready=is_ready)

    def _server_environment(self) -> Mapping[str, str]:
        """The operator's settings, and where the data are: the addresses are read from there."""
        settings = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        settings.pop("PROMINENCE_URL", None)  # more often the client's setting than meant for here
        settings["PROMINENCE_DATA"] = str(self.data.root)
        if self.mirrors:
            settings["PROMINENCE_REGISTRY_MIRRORS"] = self.mirrors
        return _outer_environment() | settings


def setup_command(*, with_registry: bool) -> Command:
    """Installs what a local node lacks (root), or names it (exit code 3)."""
    script = str(PROJECT / "worker" / "setup" / "node.sh")
    argv = ("sh", script) if with_registry else ("sh", script, "--without-registry")
    return Command(argv=argv, env=_outer_environment(), cwd=PROJECT, umask=0o022)


def _outer_environment() -> dict[str, str]:
    """This process's environment without any setting of ours."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return outer | {"PYTHONUNBUFFERED": "1"}


def _python(*words: str) -> tuple[str, ...]:
    return (sys.executable, *words)


def _answers(url: str) -> int:
    """The HTTP status of a GET, or 0 when nothing answers."""
    try:
        with _opener.open(url, timeout=PROBE_TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
