"""A node's worth of runtimes, image cache and slots for tests, with real containers and nothing else."""

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.image_maker import Extra, ImageConfig, build_busybox_image
from worker.images import CachePolicy, ImageCache
from worker.runtimes.apptainer import ApptainerRuntime
from worker.runtimes.base import ContainerRequest, Identity, ImageRequest, Runtime
from worker.runtimes.commands import run_command
from worker.runtimes.identity import become, current
from worker.runtimes.process import ProcessRuntime
from worker.runtimes.udocker import Engine, UdockerRuntime

CONFINED = "udocker-confined"
"""The machine's name for udocker with its other engine."""

ROOT = os.getuid() == 0
FIRST_UID = 57000 + os.getpid() % 300 * 4
"""Uids without accounts, unlike those of a real node and of another test run on this machine."""

IMAGES = {
    "test/plain:latest": build_busybox_image(
        ImageConfig(env={"PATH": "/bin", "FROM_IMAGE": "image"}, command=("echo", "default"))
    ),
    "test/entry:latest": build_busybox_image(
        ImageConfig(
            entrypoint=("/bin/show", "fixed"),
            command=("default",),
            workdir="/var",
            user="nobody",
        ),
        [Extra(path="bin/show", data=b'#!/bin/sh\nfor a; do echo "<$a>"; done\n', mode=0o755)],
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a container left: its exit code and output."""

    code: int
    out: str
    err: str


@dataclass(slots=True, kw_only=True)
class Machine:
    """Runs containers in slots, as a shim does it."""

    room: Path
    mirror: str
    runtimes: dict[str, Runtime] = field(init=False)
    containers: int = 0

    def __post_init__(self) -> None:
        found = (ApptainerRuntime(), UdockerRuntime(), ProcessRuntime(allowed=True))
        self.runtimes = {runtime.name: runtime for runtime in found}
        self.runtimes[CONFINED] = UdockerRuntime(engine=Engine.APPTAINER)
        missing = [name for name, runtime in self.runtimes.items() if runtime.version() is None]
        assert not missing, f"{missing} not installed: run worker/setup/node.sh as root"

    @property
    def puller(self) -> Identity:
        return Identity(uid=FIRST_UID, gid=FIRST_UID) if ROOT else current()

    def slot(self, number: int) -> Identity:
        uid = FIRST_UID + 1 + number
        return Identity(uid=uid, gid=uid) if ROOT else current()

    def cache(self, name: str = "cache", policy: CachePolicy | None = None) -> ImageCache:
        return ImageCache(
            self.room / name,
            runtimes=self.runtimes,
            puller=self.puller,
            run=run_command,
            policy=policy,
        )

    def image(self, name: str) -> ImageRequest:
        return ImageRequest(image=name, mirrors={"docker.io": self.mirror})

    def container(self, runtime: str, image: str = "test/plain", **asked: Any) -> ContainerRequest:
        """Make directories and the image ready for one more container; `slot` chooses the uid."""
        self.containers += 1
        identity = self.slot(asked.pop("slot", 0))
        job = self.room / f"job{self.containers}"
        for path in (job, job / "scratch", job / "tmp", job / "private"):
            path.mkdir(mode=0o700)
            os.chown(path, identity.uid, identity.gid)
        with self.cache().acquire(runtime, self.image(image)) as lease:
            request = ContainerRequest(
                image=lease.image,
                name=f"prom-{self.containers}-1-0-0",
                scratch=job / "scratch",
                tmp=job / "tmp",
                private=job / "private",
                identity=identity,
                **asked,
            )
        self.runtimes[runtime].prepare(request, run=run_command)
        return request

    def build_sif(self) -> Path:
        """The plain image as a Singularity image."""
        path = self.room / "plain.sif"
        if not path.exists():
            with self.cache().acquire("singularity", self.image("test/plain")) as lease:
                root = str(lease.image.path / "root")
                subprocess.run(["apptainer", "-s", "build", str(path), root], check=True)
        return path

    def start(self, request: ContainerRequest) -> "subprocess.Popen[str]":
        """Start a container in a session of its own; its top process is the one returned."""
        launch = self.runtimes[request.image.runtime].launch(request)
        return subprocess.Popen(
            launch.argv,
            env=dict(launch.env),
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: become(request.identity),
        )

    def run(self, runtime: str, *command: str, **asked: Any) -> Ended:
        """Run one container to its end."""
        process = self.start(self.container(runtime, command=command, **asked))
        with process:
            out, err = process.communicate(timeout=60)
        return Ended(code=process.returncode, out=out, err=err)


def in_child(action: Callable[[], None]) -> int:
    """Fork; run the action in the child; return the child's pid. It exits with 0, 1 on an error."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for a child of this process."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> None:
    """SIGKILL a child of this process and wait for it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def processes_of(uid: int) -> list[str]:
    """The living processes of a uid, as "pid command line" (zombies are no processes any more)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "status").read_text()
            line = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
            found.append(f"{entry.name} {line.replace(bytes(1), b' ').decode(errors='replace')}")
    return found
