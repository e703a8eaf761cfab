"""`python -m worker`: runs a node in the foreground.

SIGTERM and SIGINT end the worker and leave its jobs running, to be taken over at the next start.
SIGQUIT kills the jobs too.
"""

import argparse
import fcntl
import logging
import os
import sys
from pathlib import Path

from worker import blocks, enrol, node, spawner, sweep
from worker.layout import DataDir
from worker.protocol import Capacity

logger = logging.getLogger(__name__)

MAX_SLOTS = 256
FATAL = (
    enrol.EnrolmentRefused,
    sweep.StillRunning,
    blocks.NoFreeBlock,
    spawner.SpawnerFailed,
)


def main() -> int:
    """Returns the exit code, unless jobs' threads are about: then the process ends at once."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s: %(message)s"
    )
    for chatty in ("celery", "kombu"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    options = _options(_parser().parse_args())
    os.umask(0o077)  # what slot users may pass through is opened one by one
    options.data.make()
    if problem := _unreachable(options.data.path):
        sys.stderr.write(f"{problem}\n")
        return 2
    lock = options.data.lock.open("w")
    try:
        # A POSIX lock: shims, which are forked, do not inherit it.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.stderr.write(f"another worker uses {options.data.path}\n")
        return 2
    try:
        held = blocks.reserve(options.data.path, slots=options.slots)
        command = node.Node(options, held).run()
    except FATAL as error:
        logger.error("%s: %s", type(error).__name__, error)
        return 3
    if command is node.Command.FENCED:
        node.start_anew()
    logging.shutdown()
    os._exit(0)  # threads that wait for jobs must not keep us


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Run a PROMINENCE node.")
    parser.add_argument("--server", required=True, help="root of the API, such as https://host")
    parser.add_argument("--token-file", type=Path, help="one-time token, for the first start only")
    parser.add_argument("--data", type=Path, required=True, help="directory of this node")
    parser.add_argument("--node-cpus", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--node-memory", type=float, required=True, help="GB")
    parser.add_argument("--node-disk", type=float, required=True, help="GB")
    parser.add_argument("--slots", type=int, help="jobs at a time; default: one per CPU")
    parser.add_argument(
        "--image-cache",
        type=float,
        default=50.0,
        help="GB of images to keep (default: %(default)s)",
    )
    parser.add_argument(
        "--image-pulls", type=int, default=3, help="images pulled at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-udocker-shared-uid",
        action="store_true",
        help="run udocker jobs without root, although they can then read each other's memory",
    )
    return parser


def _options(arguments: argparse.Namespace) -> node.Options:
    capacity = Capacity(
        cpus=arguments.node_cpus,
        memory_mb=int(arguments.node_memory * 1024),
        disk_mb=int(arguments.node_disk * 1024),
    )
    slots = arguments.slots or capacity.cpus
    return node.Options(
        server=arguments.server,
        token_file=arguments.token_file,
        data=DataDir(arguments.data.resolve()),
        capacity=capacity,
        slots=max(1, min(slots, MAX_SLOTS)),
        image_cache_bytes=int(max(0.0, arguments.image_cache) * 1024**3),
        image_pulls=max(1, arguments.image_pulls),
        allow_shared_uid=arguments.allow_udocker_shared_uid,
    )


def _unreachable(path: Path) -> str:
    """Why slots with a uid of their own could not get to their directories; "" if they can."""
    if os.getuid() != 0:
        return ""
    closed = [str(parent) for parent in path.parents if not parent.stat().st_mode & 0o001]
    return f"slot users cannot pass through {', '.join(closed)}: chmod o+x" if closed else ""


if __name__ == "__main__":
    sys.exit(main())
