"""Runs a task's command on the bare host: no image, no isolation. For benchmarks only."""

from pathlib import Path

from worker.runtimes.base import (
    FIXED_ENV,
    HOME,
    ContainerRequest,
    Identity,
    ImageRequest,
    Launch,
    Run,
)
from worker.runtimes.errors import ContainerNotPrepared, RuntimeMissing

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


class ProcessRuntime:
    """Refuses everything unless constructed with `allowed=True`."""

    name = "process"
    starts_from_image = True

    def __init__(self, *, allowed: bool = False) -> None:
        self._allowed = allowed

    def version(self) -> str | None:
        """Always "1" where it is allowed."""
        return "1" if self._allowed else None

    def pull(self, request: ImageRequest, *, into: Path, identity: Identity, run: Run) -> str:
        """Nothing to fetch."""
        self._require()
        return ""

    def prepare(self, request: ContainerRequest, *, run: Run) -> None:
        """Nothing to make."""
        self._require()

    def launch(self, request: ContainerRequest) -> Launch:
        """The command itself; /home/user and /tmp are the scratch and tmp directories' real paths."""
        self._require()
        if not request.command:
            raise ContainerNotPrepared("a bare process has no image to take a command from")
        home, tmp = str(request.scratch), str(request.tmp)
        fixed = {name: home if value == HOME else tmp for name, value in FIXED_ENV.items()}
        inner = request.inner_workdir
        inside = inner == HOME or inner.startswith(f"{HOME}/")
        return Launch(
            argv=(*request.command, *request.args),
            env={"PATH": DEFAULT_PATH, **request.inner_env, **fixed},
            cwd=Path(home + inner.removeprefix(HOME)) if inside else Path(inner),
            signal_group=True,
        )

    def clean(self, identity: Identity) -> None:
        """Nothing of the runtime's own is left."""

    def _require(self) -> None:
        if not self._allowed:
            raise RuntimeMissing("running tasks without a container is not allowed on this node")
