"""Run a short-lived program as another user, bound to the life of this process."""

import signal
import subprocess
import tempfile

from worker.runtimes.base import Command, Finished
from worker.runtimes.identity import become, die_with_parent

TAIL_BYTES = 4096
"""How much of each output is kept: enough for an error message."""


def run_command(command: Command) -> Finished:
    """Run to the end with nothing on stdin; killed when this process dies or at its time limit.

    Forks with Python code in the child, so the caller should be single-threaded. Raises
    FileNotFoundError when the program is absent.
    """

    def enter() -> None:
        become(command.identity)
        die_with_parent(signal.SIGKILL)

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command.argv,
            env=dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            umask=0o022,
            preexec_fn=enter,
        )
        try:
            code = process.wait(timeout=command.timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return Finished(code=code, out=_tail(out.fileno()), err=_tail(err.fileno()))


def _tail(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        return file.read().decode(errors="replace")
