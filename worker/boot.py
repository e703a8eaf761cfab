"""Which life of which machine this is: the kernel's boot id and a random id in the data directory.

A restarted worker keeps it; a rebooted or emptied machine is a new incarnation.
"""

import secrets
from pathlib import Path

from worker.files import create_exclusive

KERNEL_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id(identity: Path) -> str:
    """The boot id; makes the file `identity` when it is not there."""
    if not identity.exists():
        create_exclusive(identity, secrets.token_hex(8).encode())
    return f"{KERNEL_BOOT_ID.read_text().strip()}:{identity.read_text().strip()}"
