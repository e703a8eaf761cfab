"""Runs containers with Apptainer, unprivileged; the public name of this runtime is "singularity".

Images are unpacked once into a plain directory ("sandbox"): it starts fastest, needs no FUSE, and is
shared read-only by all jobs of the node.

Facts measured with 1.4.5 on Debian 12: full containment costs 0-5 ms of the 60-90 ms that a start takes
(2 cores, other work going on), so nothing cheaper is offered. A missing command, a missing working
directory and Apptainer's own failures all exit 255 with "FATAL:" on stderr; a program ended by signal N
exits 128 + N; SIGTERM is forwarded; SIGKILL of the top process ends the PID namespace, and so does the
end of the program.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from worker.runtimes.base import (
    HOME,
    TMP,
    Command,
    ContainerRequest,
    Identity,
    ImageRequest,
    Launch,
    Run,
)
from worker.runtimes.errors import ImagePullFailed, ImageUnusable, NoSpace, RuntimeMissing
from worker.runtimes.identity import user_namespaces_allowed
from worker.runtimes.sources import PATH, ImageFile, fetch_image

EXIT_NOT_STARTED = 255
"""Apptainer's exit code when it could not start the program (a program may use it too)."""

SMALLEST_ROOM = 1 << 20
"""Bytes: a disk with less free space counts as full."""

CONTAINMENT = (
    "--containall",  # own PID and IPC namespaces, minimal /dev, none of the host's directories
    "--no-mount",  # /tmp is bound below anyway: saves a mount
    "tmp",
    "--no-eval",  # else values such as "$HOME" are expanded by a shell
    "--no-umask",  # the container's umask is 0022, whatever the node's
)


class ApptainerRuntime:
    """Stateless; `executable` is looked up on PATH when relative."""

    name = "singularity"
    starts_from_image = True

    def __init__(self, executable: str = "apptainer") -> None:
        self._executable = executable

    def version(self) -> str | None:
        """The version of Apptainer; None when it is missing, or user namespaces are."""
        path = shutil.which(self._executable, path=PATH)
        if path is None or not user_namespaces_allowed():
            return None
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        return answer.stdout.rpartition(" ")[2].strip() or None

    def pull(self, request: ImageRequest, *, into: Path, identity: Identity, run: Run) -> str:
        """Unpack the image as the directory `into`/root; see Runtime.pull."""
        work = into / "work"
        work.mkdir(mode=0o755)
        file = fetch_image(request, work=work, identity=identity, run=run)
        self._build(_build_source(file), into, identity, run)
        open_to_readers(into / "root", identity, run)
        shutil.rmtree(work)
        shutil.rmtree(into / "build")
        return file.digest

    def prepare(self, request: ContainerRequest, *, run: Run) -> None:
        """Nothing to make: containers share the unpacked image."""

    def launch(self, request: ContainerRequest) -> Launch:
        """Run from the sandbox; the environment travels as APPTAINERENV_ variables, intact."""
        app = ("--app", request.app) if request.app else ()
        options = ("exec" if request.command and not app else "run", *CONTAINMENT, *app)
        program = (str(request.image.path / "root"), *request.command, *request.args)
        return self.contain(request, options, program, request.inner_env)

    def clean(self, identity: Identity) -> None:
        """Nothing is ever left: all mounts are in namespaces that ended."""

    def contain(
        self,
        request: ContainerRequest,
        options: tuple[str, ...],
        program: tuple[str, ...],
        inner_env: Mapping[str, str],
    ) -> Launch:
        """Put a root directory and program into the request's directories and environment."""
        binds = (word for pair in request.mounts.items() for word in ("--bind", ":".join(pair)))
        argv = (
            *(self.found(), "--silent", *options),
            *("--home", f"{request.scratch}:{HOME}", "--bind", f"{request.tmp}:{TMP}"),
            *binds,
            *("--pwd", request.inner_workdir, *program),
        )
        env = {"PATH": PATH, "HOME": str(request.private)}
        # HOME is what --home says; a variable for it is refused with a warning.
        env.update((f"APPTAINERENV_{k}", v) for k, v in inner_env.items() if k != "HOME")
        return Launch(argv=argv, env=env, cwd=request.private, signal_group=False)

    def found(self) -> str:
        """The path of the program. Raises RuntimeMissing."""
        path = shutil.which(self._executable, path=PATH)
        if path is None:
            raise RuntimeMissing("Apptainer is not installed: run worker/setup/node.sh")
        return path

    def _build(self, source: str, into: Path, identity: Identity, run: Run) -> None:
        home = into / "build"
        _make_owned(home, identity)
        command = Command(
            argv=(
                self.found(),
                "--silent",
                "build",
                "--fix-perms",
                "--sandbox",
                str(into / "root"),
                source,
            ),
            env={
                "PATH": PATH,
                "HOME": str(home),
                "APPTAINER_CACHEDIR": str(home),
                "APPTAINER_TMPDIR": str(home),
                "APPTAINER_DISABLE_CACHE": "true",
            },
            cwd=home,
            identity=identity,
        )
        finished = run(command)
        if finished.code != 0:
            raise unpacking_failed(_last_line(finished.err), into)


def unpacking_failed(why: str, place: Path) -> ImagePullFailed:
    """The disk's fault if it is full; the image's otherwise."""
    if "no space left" in why.lower() or shutil.disk_usage(place).free < SMALLEST_ROOM:
        return NoSpace(f"no space left on this node to unpack the image: {why}")
    return ImageUnusable(f"the image cannot be unpacked: {why}")


def _build_source(file: ImageFile) -> str:
    if file.archive and ":" in str(file.path):
        raise ImageUnusable(f"{file.path}: a colon in the path of a tarball")
    return f"docker-archive:{file.path}" if file.archive else str(file.path)


def open_to_readers(root: Path, identity: Identity, run: Run) -> None:
    """Let every slot read the image, nobody write it, and nobody gain the puller's uid from it."""
    command = Command(
        argv=("/usr/bin/chmod", "-R", "a+rX,go-w,ug-s", "--", str(root)),
        env={"PATH": PATH},
        cwd=Path("/"),
        identity=identity,
    )
    if run(command).code != 0:
        raise ImagePullFailed("the permissions of the unpacked image could not be set")


def _make_owned(path: Path, identity: Identity) -> None:
    path.mkdir(mode=0o700)
    shutil.chown(path, identity.uid, identity.gid)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no message"
