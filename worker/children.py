"""Work that a shim has done by a child of its own, since it may take long and the shim must go on obeying meanwhile."""

import logging
import os
import signal
from collections.abc import Callable
from typing import TypeVar

import msgspec

from worker import tree
from worker.runtimes.base import Identity
from worker.runtimes.identity import die_with_parent

logger = logging.getLogger(__name__)

Outcome = TypeVar("Outcome", bound=msgspec.Struct)
Action = Callable[[], msgspec.Struct]


def start_child(action: Action) -> tuple[int, int]:
    """Fork a child that does `action` and writes its outcome as JSON into a pipe; returns pid and the pipe's end."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _work(action, writer)
    os.close(writer)
    return pid, reader


def read_outcome(reader: int) -> bytes:
    """What the child wrote; empty if it died. Closes the pipe; call it when the child has ended."""
    with os.fdopen(reader, "rb") as file:
        return file.read()


def _work(action: Action, writer: int) -> None:
    code = 1
    try:
        tree.name_process("prom-prepare")
        die_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        data = msgspec.json.encode(action())
        while data:
            data = data[os.write(writer, data) :]
        code = 0
    except Exception:
        logger.exception("work for a job failed")
    finally:
        os._exit(code)


def become_bare(identity: Identity) -> None:
    """The slot's user for good, without the account that container runtimes insist on, which costs milliseconds."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    tree.forbid_new_privileges()


def exit_code(status: int) -> int:
    """As a shell says it: 128 + N for signal N."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
