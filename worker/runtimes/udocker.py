"""Runs containers with udocker: a writable copy of the image per job, executed by PRoot (mode P1).

udocker loads the image and makes one container of it, which is copied for each job. What `udocker run`
would then do is done here, because udocker 1.3.17 strips and splits environment values, prefers the
image's variables over the user's, and keeps a Python process above the program (60 ms more); and because
Debian's PRoot 5.1.0 alone reports the exit code of whatever process ended last, waits for background
processes, and when killed leaves its processes running. So PRoot runs as the first process of a PID
namespace of its own, and the program under a small supervisor script (below) in a static busybox.

A start takes 12 ms of CPU; the copy before it depends on the image's size. Every system call of the
program costs 17 µs extra: Debian's PRoot is built without seccomp, so P1 and P2 are alike here.

PRoot is no jail: a hostile program can reach what its uid can reach on the host. Isolation between jobs
needs a uid for each, hence a node run by root, or an operator who accepts that (DESIGN, invariant 4).
The other engine, Apptainer on the writable copy (udocker's mode S1), is confined like any Apptainer
container and takes no toll of system calls; it starts as fast as Apptainer does and is chosen by the node.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from worker.runtimes.apptainer import (
    CONTAINMENT,
    ApptainerRuntime,
    open_to_readers,
    unpacking_failed,
)
from worker.runtimes.base import (
    HOME,
    TMP,
    Command,
    ContainerRequest,
    Identity,
    ImageRequest,
    Launch,
    Run,
    is_variable,
)
from worker.runtimes.docker_save import ARCHIVE_NAME
from worker.runtimes.errors import (
    ContainerNotPrepared,
    ImageUnusable,
    RuntimeMissing,
)
from worker.runtimes.identity import user_namespaces_allowed
from worker.runtimes.sources import PATH, fetch_image

EXIT_NOT_FOUND = 127
"""Exit code when the command, or the working directory, does not exist in the container."""

EXIT_NOT_EXECUTABLE = 126
"""Exit code when the command is there but cannot be executed."""

INNER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH for images that set none, as with Docker."""

HOST_TMP = Path(TMP)
HOST_FILES = ("/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts")
MOUNTED_FILES = ("hosts", "localtime", "resolv.conf", "passwd", "group")
MAX_METADATA_BYTES = 4 << 20
REPOSITORY = ARCHIVE_NAME.partition(":")[0]
MODEL = "model"
"""The unpacked container in the cache that each job gets a copy of."""

INNER_BUSYBOX = "/.prominence/busybox"

HIDDEN = re.compile(r"(LD|PROOT|GLIBC|MALLOC|GCONV)_[A-Za-z0-9_]*")
"""Variables that the dynamic loader, the C library or PRoot would heed on the way to the program."""

SUPERVISOR = r"""
trap : TERM INT HUP QUIT USR1 USR2
[ -w /etc/passwd ] && echo "user:x:$1:$2::/home/user:/bin/sh" >>/etc/passwd
unset PROOT_TMP_DIR PROOT_NO_SECCOMP
for name in $PROMINENCE_HIDDEN; do
    eval "export $name=\"\$PROMINENCE_HIDDEN_$name\""
    unset "PROMINENCE_HIDDEN_$name"
done
unset PROMINENCE_HIDDEN name
cd "$3" 2>/dev/null || { echo "no such working directory: $3" >&2; exit 127; }
unset OLDPWD
shift 3
program=$1
case $program in
    */*) ;;
    *)
        IFS=:
        for directory in $PATH; do
            [ -f "$directory/$program" ] && [ -x "$directory/$program" ] && break
            directory=
        done
        unset IFS
        [ -n "$directory" ] || { echo "$program: command not found" >&2; exit 127; }
        program=$directory/$program
        ;;
esac
shift
(exec "$program" "$@")
code=$?
while kill -9 -1 2>/dev/null; do :; done
exit $code
"""
"""Starts the program, and ends last with its exit code.

The program gets the script's own process group, stdin, stdout and stderr; a signal to the group reaches
it, and the traps keep this script alive meanwhile. What the program left behind is then killed: kill -1
stays within the PID namespace. The search of PATH is spelled out since busybox would prefer its own
applets to the image's programs. uid, gid and working directory are the first arguments.
"""


class Engine(Enum):
    """What executes a container; the values are udocker's names of the modes."""

    PROOT = "P1"
    PROOT_PLAIN = "P2"
    APPTAINER = "S1"


class UdockerRuntime:
    """Stateless; the executables' places are those of worker/setup/install-udocker.sh."""

    name = "udocker"
    starts_from_image = False

    def __init__(
        self,
        *,
        udocker: Path = Path("/usr/local/bin/udocker"),
        proot: Path = Path("/usr/bin/proot"),
        busybox: Path = Path("/bin/busybox"),
        engine: Engine = Engine.PROOT,
    ) -> None:
        self._udocker = udocker
        self._proot = proot
        self._busybox = busybox
        self._engine = engine

    def version(self) -> str | None:
        """The version of udocker; None when it, PRoot, busybox or user namespaces are missing."""
        if not self._installed() or not user_namespaces_allowed():
            return None
        if self._engine is Engine.APPTAINER and ApptainerRuntime().version() is None:
            return None
        versions = sorted(Path("/opt/udocker").glob("udocker-*.dist-info"))
        return (
            versions[-1].name.removesuffix(".dist-info").partition("-")[2]
            if versions
            else "unknown"
        )

    def pull(self, request: ImageRequest, *, into: Path, identity: Identity, run: Run) -> str:
        """Fill `into` with one container of udocker's, the model of all others; see Runtime.pull."""
        self._require()
        work, home = into / "work", into / "home"
        work.mkdir(mode=0o755)
        file = fetch_image(request, work=work, identity=identity, run=run)
        if not file.archive:
            raise ImageUnusable(f"{request.image}: udocker cannot use Singularity images")
        _make_owned(home, identity)
        udocker = partial(self._command, image=into, home=home, identity=identity)
        finished = run(udocker("load", "-i", str(file.path), REPOSITORY))
        if finished.code != 0 or not (into / "repos" / REPOSITORY).is_dir():
            raise unpacking_failed(finished.err[-500:].strip(), into)
        shutil.rmtree(work)
        finished = run(udocker("create", "--name=model", _loaded(into)))
        container = home / "containers" / "model"
        if finished.code != 0 or not container.is_dir():
            raise unpacking_failed(finished.err[-500:].strip(), into)
        container.resolve().rename(into / MODEL)
        for path in (home, into / "repos", into / "layers"):
            shutil.rmtree(path)
        open_to_readers(into / MODEL, identity, run)
        return file.digest

    def prepare(self, request: ContainerRequest, *, run: Run) -> None:
        """Make the job's own copy of the model, as the job's own user; see Runtime.prepare.

        What `udocker create` would do again for each job, at a tenth of its price.
        """
        self._require()
        container = self._container(request)
        if container.is_dir():
            return
        for directory in (container.parent, request.private / "shm", request.private / "proot"):
            if not directory.is_dir():
                _make_owned(directory, request.identity)
        draft = container.with_name("draft")
        copy = ("/usr/bin/cp", "-r", "--preserve=mode,links,timestamps", "--reflink=auto", "-T")
        finished = run(
            Command(
                argv=(*copy, "--", str(request.image.path / MODEL), str(draft)),
                env={"PATH": PATH},
                cwd=Path("/"),
                identity=request.identity,
            )
        )
        if finished.code != 0:
            raise ContainerNotPrepared(
                f"the image could not be copied: {finished.err[-500:].strip()}"
            )
        if self._engine is Engine.APPTAINER:
            self._make_mount_points(request, draft / "ROOT", run)
        draft.rename(container)

    def launch(self, request: ContainerRequest) -> Launch:
        """PRoot, or Apptainer, on the job's copy, in PID and mount namespaces of its own."""
        container = self._container(request)
        config = _read_config(container / "container.json")
        command = request.command or tuple(config.get("Entrypoint") or ())
        args = request.args or (() if request.command else tuple(config.get("Cmd") or ()))
        if not (*command, *args):
            raise ContainerNotPrepared("the image has no command of its own and none was given")
        if self._engine is Engine.APPTAINER:
            return self._confine(request, config, (str(container / "ROOT"), *command, *args))
        identity = request.identity
        argv = (
            *("/usr/bin/unshare", "--user", "--map-current-user"),
            *("--pid", "--fork", "--kill-child", "--mount-proc"),
            str(self._proot),
            *self._bindings(request),
            *("-r", str(container / "ROOT"), "-w", "/"),
            *(INNER_BUSYBOX, "sh", "-c", SUPERVISOR, "supervisor"),
            *(str(identity.uid), str(identity.gid), request.inner_workdir),
            *command,
            *args,
        )
        env = self._inner_env(request, config)
        return Launch(argv=argv, env=env, cwd=request.private, signal_group=True)

    def _make_mount_points(self, request: ContainerRequest, root: Path, run: Run) -> None:
        # As the job, for the image may have links in these places. What cannot be made is not mounted.
        directories = tuple(str(root / name) for name in ("home/user", "tmp", "var/tmp", "etc"))
        files = tuple(str(root / "etc" / name) for name in MOUNTED_FILES)
        for argv in (("/usr/bin/mkdir", "-p", *directories), ("/usr/bin/touch", *files)):
            identity, env = request.identity, {"PATH": PATH}
            run(Command(argv=argv, env=env, cwd=request.private, identity=identity))

    def _confine(
        self, request: ContainerRequest, config: Mapping[str, Any], program: tuple[str, ...]
    ) -> Launch:
        options = ("exec", "--writable", *CONTAINMENT)
        return ApptainerRuntime().contain(request, options, program, _merged_env(request, config))

    def clean(self, identity: Identity) -> None:
        """Remove a killed PRoot's own files, for which Debian's knows no other place than /tmp.

        Not when the job runs as this process's own user: nothing tells whose files are whose then.
        """
        if identity.uid == os.getuid():
            return
        for path in HOST_TMP.glob("proot*-*"):
            with suppress(OSError):
                if path.lstat().st_uid != identity.uid:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()

    def _container(self, request: ContainerRequest) -> Path:
        return request.private / "udocker" / request.name

    def _bindings(self, request: ContainerRequest) -> tuple[str, ...]:
        pairs = [(path, path) for path in HOST_FILES if Path(path).exists()]
        pairs += [
            (str(request.private / "shm"), "/dev/shm"),  # noqa: S108
            (str(request.scratch), HOME),
            (str(request.tmp), TMP),
            (str(self._busybox), INNER_BUSYBOX),
            *request.mounts.items(),
        ]
        return tuple(word for host, inner in pairs for word in ("-b", f"{host}:{inner}"))

    def _inner_env(self, request: ContainerRequest, config: Mapping[str, Any]) -> dict[str, str]:
        env = _hide(_merged_env(request, config))
        # Heeded by later versions of PRoot only; see clean().
        env["PROOT_TMP_DIR"] = str(request.private / "proot")
        if self._engine is Engine.PROOT_PLAIN:
            env["PROOT_NO_SECCOMP"] = "1"
        return env

    def _command(self, *words: str, image: Path, home: Path, identity: Identity) -> Command:
        env = {
            "PATH": PATH,
            "HOME": str(home),
            "UDOCKER_DIR": str(home),
            "UDOCKER_TMP": str(home),
            "UDOCKER_REPOS": str(image / "repos"),
            "UDOCKER_LAYERS": str(image / "layers"),
        }
        return Command(argv=(str(self._udocker), *words), env=env, cwd=home, identity=identity)

    def _installed(self) -> bool:
        needed = (self._udocker, self._proot, self._busybox, Path("/usr/bin/unshare"))
        return all(os.access(path, os.X_OK) for path in needed)

    def _require(self) -> None:
        if not self._installed():
            raise RuntimeMissing("udocker is not installed: run worker/setup/node.sh")


def _merged_env(request: ContainerRequest, config: Mapping[str, Any]) -> dict[str, str]:
    pairs = (str(pair).partition("=")[::2] for pair in config.get("Env") or ())
    image = {name: value for name, value in pairs if is_variable(name)}
    return {"PATH": INNER_PATH, **image, **request.inner_env}


def _hide(env: Mapping[str, str]) -> dict[str, str]:
    """Rename what would act on unshare and PRoot themselves; the supervisor names it back."""
    hidden = sorted(name for name in env if HIDDEN.fullmatch(name))
    renamed = {f"PROMINENCE_HIDDEN_{name}": env[name] for name in hidden}
    rest = {name: value for name, value in env.items() if name not in hidden}
    return {**rest, **renamed, "PROMINENCE_HIDDEN": " ".join(hidden)}


def _loaded(image: Path) -> str:
    """The name the image got in udocker's repository: the tag is the archive's own."""
    tags = sorted(
        entry.name for entry in (image / "repos" / REPOSITORY).iterdir() if entry.is_dir()
    )
    if not tags:
        raise ImageUnusable("the image has no tag")
    return f"{REPOSITORY}:{tags[0]}"


def _read_config(path: Path) -> dict[str, Any]:
    """The image's run configuration. The file is the job's: no links, no surprises in size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            metadata = json.loads(file.read(MAX_METADATA_BYTES))
    except (OSError, ValueError) as error:
        raise ContainerNotPrepared(f"unreadable container metadata: {error}") from error
    config = metadata.get("config") or metadata.get("container_config") or {}
    return config if isinstance(config, dict) else {}


def _make_owned(path: Path, identity: Identity) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, identity.uid, identity.gid)
