"""The interface between a shim and a container runtime, and the values that cross it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

HOME = "/home/user"
"""Where every container sees its scratch directory (guide; S31)."""

TMP = "/tmp"  # noqa: S108 - the path inside containers
"""Where every container sees its private, node-local temporary directory (S32)."""

FIXED_ENV: Mapping[str, str] = {"HOME": HOME, "TMP": TMP, "TEMP": TMP, "TMPDIR": TMP}
"""Variables that each runtime sets in each container, over the image's and the request's."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_variable(name: str) -> bool:
    """Whether an environment variable of this name reaches programs through every shell."""
    return _VARIABLE.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The user and group id that a process is to run as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A registry login. Never put into argv, a log or an error; repr hides the token."""

    username: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """An image as a job names it.

    `mirrors` maps a registry host ("docker.io") to the base URL that is asked instead
    ("http://127.0.0.1:5000"); there is no way back to the origin when a mirror lacks the image.
    `digest`: what a tag was resolved to; then this is pulled, wherever the tag points by now.
    """

    image: str
    mirrors: Mapping[str, str] = field(default_factory=dict)
    credential: Credential | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image unpacked in the cache.

    `digest` is "sha256:…" of what was asked for (manifest, or file), "" when nobody knows it.
    `pull_s` is -1.0 when the image was there already (S122).
    """

    runtime: str
    path: Path
    digest: str
    cached: bool
    pull_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRequest:
    """One container to run.

    An empty `command` means the image's own entrypoint and command; `args` are appended to the
    command, or to the entrypoint, in which case they replace the image's command as with Docker.
    `scratch` becomes /home/user, `tmp` becomes /tmp; `private` is where the runtime may put what
    belongs to this job alone. All three exist, belong to `identity`, and are absolute. `mounts`: further
    directories of the job, and where they are seen. `app`: part of a Singularity image to run (U8).
    """

    image: PreparedImage
    name: str
    scratch: Path
    tmp: Path
    private: Path
    identity: Identity
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    app: str = ""
    mounts: Mapping[str, str] = field(default_factory=dict)

    @property
    def inner_workdir(self) -> str:
        """The absolute working directory inside the container (W19)."""
        if not self.workdir:
            return HOME
        return self.workdir if self.workdir.startswith("/") else f"{HOME}/{self.workdir}"

    @property
    def inner_env(self) -> dict[str, str]:
        """The request's variables and the fixed ones, to be laid over the image's.

        Names that are no shell identifiers are left out: a single one makes Apptainer 1.4.5 lose all
        variables, without an error.
        """
        usable = {name: value for name, value in self.env.items() if is_variable(name)}
        return {**usable, **FIXED_ENV}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to execve, as the request's identity, to become the container's top process.

    The exit code of argv is the exit code of the program. SIGKILL of argv's process ends the whole
    container. Other signals go to its process group if `signal_group`, else to it alone, which passes
    them on (to send both would make the program see a signal twice); so start it as the leader of a
    group of its own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    signal_group: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A short-lived program that a runtime needs, such as an unpacker."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    identity: Identity
    timeout_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a command ended: its exit code (negative: the signal) and the ends of its output."""

    code: int
    out: str
    err: str


Run = Callable[[Command], Finished]
"""Runs a command to its end with `worker.runtimes.identity.become` in the child; injected so that
the shim decides how its children are bound to its own life."""


class Runtime(Protocol):
    """A way to run containers. Stateless: everything is in the requests and on disk."""

    @property
    def name(self) -> str:
        """The public name: singularity, udocker or process."""

    @property
    def starts_from_image(self) -> bool:
        """Whether `prepare` has nothing to do."""

    def version(self) -> str | None:
        """The installed version; None when the runtime cannot be used here. Blocks < 0.1 s."""

    def pull(self, request: ImageRequest, *, into: Path, identity: Identity, run: Run) -> str:
        """Fill the empty directory `into`, owned by `identity`, and return the image's digest.

        Blocking, not idempotent (after a failure `into` is thrown away). Whatever unpacks content
        that others made runs as `identity`. Raises ImagePullFailed and RuntimeMissing.
        """

    def prepare(self, request: ContainerRequest, *, run: Run) -> None:
        """Make what `launch` needs on disk. Blocking; idempotent per (private, name).

        Raises ContainerNotPrepared and RuntimeMissing.
        """

    def launch(self, request: ContainerRequest) -> Launch:
        """How to start the prepared container. Fast; pure but for reading what prepare made."""

    def clean(self, identity: Identity) -> None:
        """Remove what killed containers of this identity left outside their job's directories.

        Call it when all of the job's containers have ended. Idempotent, never raises OSError.
        """
