"""Become an ordinary user in a freshly forked child, even one that /etc/passwd does not know.

Job slots have numeric user ids of their own and no accounts. Apptainer insists on an account: it exits
with "unknown userid" (udocker and PRoot do not care). So a child of root first gets a mount namespace
of its own in which /etc/passwd has one line more; nothing changes for the rest of the machine.
"""

import ctypes
import os
import pwd
import tempfile
from pathlib import Path

from worker.runtimes.base import HOME, Identity

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
PASSWD = Path("/etc/passwd")

_libc = ctypes.CDLL(None, use_errno=True)


def current() -> Identity:
    """The identity of this process."""
    return Identity(uid=os.getuid(), gid=os.getgid())


def become(identity: Identity) -> None:
    """Give up this process's own identity for good; call it in a forked child, before execve.

    As root: an /etc/passwd that knows the uid, no supplementary groups, gid, uid. As anybody: no
    program can raise privileges any more (no_new_privs), so a setuid file on the host is harmless.
    Raises PermissionError when the identity is another one and this process is not root.
    """
    if os.getuid() == 0 and identity.uid != 0:
        if not _has_account(identity.uid):
            _add_private_account(identity)
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    elif identity.uid != os.getuid():
        raise PermissionError(f"uid {os.getuid()} cannot become uid {identity.uid}")
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` when the forking thread ends; call it after `become`."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0))


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _add_private_account(identity: Identity) -> None:
    # The file must not be the job's: setuid programs of the host would believe it.
    line = f"user:x:{identity.uid}:{identity.gid}::{HOME}:/bin/sh\n"
    with tempfile.NamedTemporaryFile(prefix="prominence-passwd-") as file:
        file.write(PASSWD.read_bytes().rstrip(b"\n") + b"\n" + line.encode())
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        _check(_libc.unshare(CLONE_NEWNS))
        _mount(b"none", b"/", MS_REC | MS_PRIVATE)
        _mount(os.fsencode(file.name), os.fsencode(PASSWD), MS_BIND)


def _mount(source: bytes, target: bytes, flags: int) -> None:
    _check(_libc.mount(source, target, None, ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
