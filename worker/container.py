"""From orders to a container: which runtimes, which image, which environment; starting its process.

Used by the shim only. Image work happens in a child process: it may take long, and the shim must go on
obeying stops and the lease meanwhile.
"""

import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NoReturn

import msgspec

from worker import tree
from worker.children import become_bare
from worker.handover import Orders
from worker.images import CachePolicy, ImageCache, ImageLease
from worker.layout import JobDir
from worker.protocol import EndReason, TaskSecrets, TaskSpec
from worker.runtimes.apptainer import ApptainerRuntime
from worker.runtimes.base import (
    ContainerRequest,
    Credential,
    Identity,
    ImageRequest,
    Launch,
    PreparedImage,
    Runtime,
)
from worker.runtimes.commands import run_command
from worker.runtimes.errors import (
    ContainerNotPrepared,
    ImagePullFailed,
    RuntimeFailure,
    RuntimeMissing,
)
from worker.runtimes.identity import become, borrowed, die_with_parent
from worker.runtimes.process import ProcessRuntime
from worker.runtimes.select import PROCESS, UDOCKER
from worker.runtimes.udocker import UdockerRuntime

_ID_VARIABLE = re.compile(
    r"\$(?:\{(PROMINENCE_(?:JOB|WORKFLOW)_ID)\}|(PROMINENCE_(?:JOB|WORKFLOW)_ID)\b)"
)

NO_IMAGE = PreparedImage(runtime=PROCESS, path=Path("/"), digest="", cached=True, pull_s=-1.0)
"""Of a bare process."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What the preparing child reports: an image ready for use, or why not."""

    pull_s: float = -1.0
    digest: str = ""
    error: str = ""
    reason: EndReason | None = None


@lru_cache(maxsize=2)
def runtimes(*, allow_process: bool) -> Mapping[str, Runtime]:
    """All runtimes by public name; they hold no state."""
    known: list[Runtime] = [ApptainerRuntime(), UdockerRuntime()]
    if allow_process:
        known.append(ProcessRuntime(allowed=True))
    return {runtime.name: runtime for runtime in known}


def reason_of(failure: RuntimeFailure) -> EndReason:
    """Why a job ends that its runtime could not start."""
    missing = isinstance(failure, RuntimeMissing)
    return EndReason.RUNTIME_MISSING if missing else EndReason.COMMAND_NOT_STARTED


class Containers:
    """The containers of one job, one after another."""

    def __init__(self, orders: Orders, job_dir: JobDir) -> None:
        self._orders = orders
        self._dir = job_dir
        self._runtimes = runtimes(allow_process=orders.allow_process)
        self._digests: dict[str, str] = {}
        self.identity = Identity(uid=orders.uid, gid=orders.gid)

    def check(self, task: TaskSpec) -> None:
        """Raises RuntimeMissing for a runtime that may not be used here."""
        if task.runtime not in self._runtimes:
            raise RuntimeMissing(f"this node does not run tasks with {task.runtime!r}")
        shared = os.getuid() != 0 and not self._orders.allow_shared_uid
        if task.runtime == UDOCKER and shared:
            raise RuntimeMissing(
                "this node is not run by root, so udocker jobs could read each other's memory; "
                "its operator may allow that with --allow-udocker-shared-uid"
            )

    def prepare(self, index: int) -> Prepared:
        """Pull the image and make the container. Blocks; run it in a child of the shim."""
        task = self._orders.spec.tasks[index]
        try:
            with self.acquire(index) as lease:
                request = self.request(index, lease)
                self._runtimes[task.runtime].prepare(request, run=run_command)
                return Prepared(pull_s=lease.image.pull_s, digest=lease.image.digest)
        except ImagePullFailed as error:
            return Prepared(error=error.detail, reason=EndReason(error.code))
        except RuntimeFailure as error:
            return Prepared(error=error.detail, reason=reason_of(error))
        except OSError as error:
            return Prepared(error=str(error), reason=EndReason.NODE_ERROR)

    def acquire(self, index: int) -> ImageLease:
        """The image of a task from the cache, pulled if need be. Raises RuntimeFailure."""
        task = self._orders.spec.tasks[index]
        if task.runtime == PROCESS:
            return ImageLease(image=NO_IMAGE, descriptor=-1)
        lease = self._cache.acquire(
            task.runtime, self._image_request(index), self._orders.submitted_at
        )
        self.pin(index, lease.image.digest)
        return lease

    def is_ready(self, index: int) -> bool:
        """Whether the task can start without anything being pulled, asked or made. Fast."""
        task = self._orders.spec.tasks[index]
        if task.runtime == PROCESS:
            return True
        if not self._runtimes[task.runtime].starts_from_image:
            return False
        found = self._cache.find(
            task.runtime, self._image_request(index), self._orders.submitted_at
        )
        if found is None:
            return False
        with found:
            self.pin(index, found.image.digest)
        return True

    def pin(self, index: int, digest: str) -> None:
        """What this task's image stands for, in all tasks of the job."""
        self._digests[self._orders.spec.tasks[index].image] = digest

    @cached_property
    def _cache(self) -> ImageCache:
        policy = CachePolicy(
            max_bytes=self._orders.image_cache_bytes, pulls=self._orders.image_pulls
        )
        return ImageCache(
            Path(self._orders.images),
            runtimes=self._runtimes,
            puller=self._puller(),
            run=run_command,
            policy=policy,
        )

    def _image_request(self, index: int) -> ImageRequest:
        image = self._orders.spec.tasks[index].image
        return ImageRequest(
            image=image,
            mirrors=self._orders.mirrors,
            credential=self._credential(index),
            digest=self._digests.get(image, ""),
        )

    def _secrets(self, index: int) -> TaskSecrets:
        return self._orders.secrets[index] if self._orders.secrets else TaskSecrets()

    def _credential(self, index: int) -> Credential | None:
        secrets = self._secrets(index)
        return Credential(username=secrets.username, token=secrets.token) if secrets.token else None

    def _puller(self) -> Identity:
        if os.getuid() != 0:
            return self.identity
        return Identity(uid=self._orders.puller, gid=self._orders.puller)

    def enter(self, task: TaskSpec) -> Callable[[], None]:
        """What the forked child does to become the slot's user."""
        if task.runtime == PROCESS:
            return partial(become_bare, self.identity)
        return partial(become, self.identity)

    def launch(self, index: int, lease: ImageLease) -> Launch:
        """Raises RuntimeFailure."""
        task = self._orders.spec.tasks[index]
        return self._runtimes[task.runtime].launch(self.request(index, lease))

    def request(self, index: int, lease: ImageLease) -> ContainerRequest:
        task = self._orders.spec.tasks[index]
        env = self._environment(index, task)
        return ContainerRequest(
            image=lease.image,
            name=f"prom-{self._orders.key}-{index}".replace(".", "-"),
            scratch=self._dir.work,
            tmp=self._dir.tmp,
            private=self._dir.private,
            identity=self.identity,
            command=tuple(_with_ids(word, env) for word in task.command),
            args=task.args,
            env=env,
            workdir=_with_ids(task.workdir, env) if task.workdir else None,
            app=task.app,
            mounts=self._mounts(),
        )

    def _mounts(self) -> dict[str, str]:
        """Directories of the scratch that are seen elsewhere too (U12). No process of the job runs now that could
        put a link in their place. Raises ContainerNotPrepared.
        """
        mounts = {}
        for artifact in self._orders.spec.artifacts:
            if artifact.mountpoint:
                folder = self._dir.work / artifact.folder
                if folder.is_symlink() or not folder.is_dir():
                    raise ContainerNotPrepared(f"{artifact.folder} is not a directory")
                mounts[str(folder)] = artifact.mountpoint
        return mounts

    def _environment(self, index: int, task: TaskSpec) -> dict[str, str]:
        key, spec = self._orders.key, self._orders.spec
        return {
            "PROMINENCE_CPUS": str(spec.cpus),
            "PROMINENCE_MEMORY": _gigabytes(spec.memory_mb),
            "PROMINENCE_CONTAINER_RUNTIME": task.runtime,
            "PROMINENCE_JOB_ID": str(key.job),
            "PROMINENCE_NODES": str(spec.nodes),
            "PROMINENCE_NODE_NUM": str(key.rank),
            "PROMINENCE_TASK_NUM": str(index),
            "USER": "user",
            tree.MARK: f"{self._orders.cgroup}/{key}",
            **spec.env,
            **task.env,
            **self._secrets(index).env,
            **self._orders.secret_env,
        }


def _with_ids(text: str, env: Mapping[str, str]) -> str:
    """The job's (and workflow's) id in place of its variable, as no shell does it (U19)."""
    return _ID_VARIABLE.sub(lambda found: env.get(found[1] or found[2], found[0]), text)


def _gigabytes(memory_mb: int) -> str:
    whole, rest = divmod(memory_mb, 1024)
    return str(memory_mb / 1024) if rest else str(whole)


def start(
    launch: Launch,
    enter: Callable[[], None],
    outputs: tuple[int, int],
    group_files: tuple[Path, ...],
) -> int:
    """Fork the container's top process, leader of a session of its own; returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            _run(launch, enter, outputs, group_files)
        except BaseException as error:  # noqa: BLE001 - a forked child must end here, whatever happens
            os.write(2, f"{launch.argv[0]}: {_why(error)}\n".encode())
        os._exit(127)
    return pid


def start_bare(
    launch: Launch,
    identity: Identity,
    outputs: tuple[int, int],
) -> int:
    """Like `start`, for a program that needs an identity and nothing else of its own; 0 when that way is closed.

    A fork copies this process, which costs more than all the rest of a short job; spawning borrows it. One thing is
    not to be had so: the program does not die with the shim. The worker's sweep ends it.
    """
    try:
        with borrowed(identity):
            os.chdir(launch.cwd)
            program = shutil.which(launch.argv[0], path=launch.env.get("PATH"))
            pid = os.posix_spawn(
                program or launch.argv[0],
                launch.argv,
                launch.env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate(outputs, 1)],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT),
            )
    except OSError:
        return 0  # a fork tells the user why
    finally:
        os.chdir("/")
    return pid


def _why(error: BaseException) -> str:
    return error.strerror or "error" if isinstance(error, OSError) else type(error).__name__


def _run(
    launch: Launch,
    enter: Callable[[], None],
    outputs: tuple[int, int],
    group_files: tuple[Path, ...],
) -> NoReturn:
    os.setsid()
    os.dup2(outputs[0], 1)
    os.dup2(outputs[1], 2)
    for file in group_files:
        with suppress(OSError):
            file.write_text("0")
    enter()
    die_with_parent(signal.SIGKILL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)
    os.chdir(launch.cwd)
    _exec(launch.argv, launch.env)


def _exec(argv: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    os.execvpe(argv[0], argv, env)  # noqa: S606 - an argv list, looked up on the PATH of `env`
