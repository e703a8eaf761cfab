"""Become an ordinary user in a freshly forked child, even one that /etc/passwd does not know.

Job slots have numeric user ids of their own and no accounts. Apptainer insists on an account: it exits
with "unknown userid" (udocker and PRoot do not care). So a child of root first gets a mount namespace
of its own in which /etc/passwd has one line more; nothing changes for the rest of the machine.
"""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.runtimes.base import HOME, Identity

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_GET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 27, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
NOBODY = 65534
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
        _add_private_account(identity)
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    elif identity.uid != os.getuid():
        raise PermissionError(f"uid {os.getuid()} cannot become uid {identity.uid}")
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


@contextmanager
def borrowed(identity: Identity) -> Iterator[None]:
    """Act as this identity and come back; what is executed meanwhile has no way back.

    For a single-threaded process of root that forbade itself new privileges, while no process of the identity
    lives: one could signal this process just now. As anybody else: nothing. Raises PermissionError where a change
    of uid would not take the privileges away.
    """
    if os.getuid() != 0:
        yield
        return
    if _libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) != 0:
        raise PermissionError("the capabilities of this process survive a change of uid")
    _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(identity.gid, identity.gid, 0)
    os.setresuid(identity.uid, identity.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` when the forking thread ends; call it after `become`."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0))


def user_namespaces_allowed() -> bool:
    """Whether an ordinary user may make user namespaces here, found by trying (2 ms)."""
    command = ["/usr/bin/unshare", "--user", "--map-current-user", "--pid", "--fork", "/bin/true"]
    nobody = NOBODY if os.getuid() == 0 else None
    groups: list[int] | None = None if nobody is None else []
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            check=False,
            cwd="/",
            user=nobody,
            group=nobody,
            extra_groups=groups,
        )
    except OSError:
        return False
    return ended.returncode == 0


def _add_private_account(identity: Identity) -> None:
    """Unless /etc/passwd has the uid, cover it in a mount namespace of this process's own.

    Other sources of accounts are not asked: that takes milliseconds, and one line more harms nobody.
    """
    accounts = PASSWD.read_bytes().rstrip(b"\n")
    if any(line.split(b":")[2:3] == [b"%d" % identity.uid] for line in accounts.splitlines()):
        return
    line = f"\nuser:x:{identity.uid}:{identity.gid}::{HOME}:/bin/sh\n"
    # The file must not be the job's: setuid programs of the host would believe it.
    with tempfile.NamedTemporaryFile(prefix="prominence-passwd-") as file:
        file.write(accounts + line.encode())
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        _own_mount_namespace(identity)
        _mount(b"none", b"/", MS_REC | MS_PRIVATE)
        _mount(os.fsencode(file.name), os.fsencode(PASSWD), MS_BIND)


def _own_mount_namespace(identity: Identity) -> None:
    try:
        _check(_libc.unshare(CLONE_NEWNS))
    except PermissionError as error:
        advice = f"uid {identity.uid} has no account and there is no right to mount one"
        raise PermissionError(f"{advice}: give CAP_SYS_ADMIN, or add the account") from error


def _mount(source: bytes, target: bytes, flags: int) -> None:
    _check(_libc.mount(source, target, None, ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
