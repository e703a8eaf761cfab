"""`load.c` for a machine without a C compiler: the same words, somewhat dearer."""

import os
import sys
import time
from pathlib import Path

BLOCK = 65536


def spawn(count: str) -> None:
    for _ in range(int(count)):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def stamp(path: str, ms: str) -> None:
    begun = time.time_ns()
    time.sleep(int(ms) / 1000)
    Path(path).write_text(f"{begun} {time.time_ns()}\n")


def tick(per_s: str, seconds: str) -> None:
    begun = time.time()
    for number in range(int(per_s) * int(seconds)):
        time.sleep(max(0.0, begun + number / int(per_s) - time.time()))
        os.write(1, f"t {time.time_ns()}\n".encode())


def flood(size: str) -> None:
    block = bytes(10 if i % 64 == 63 else 97 + i % 23 for i in range(BLOCK))
    left = int(size)
    while left > 0:
        left -= os.write(1, block[: min(left, BLOCK)])


if __name__ == "__main__":
    {"spawn": spawn, "stamp": stamp, "tick": tick, "flood": flood}[sys.argv[1]](*sys.argv[2:])
