"""Many followers of one job in one process: `PORT TOKEN JOB COUNT`. Lines are `t NANOSECONDS`, when they were written.

Prints JSON: `late_s`, of lines written after all were connected, written to read; `lines`, how many each one saw.
"""

import asyncio
import json
import re
import sys
import time

from tests.servers import HOST

LINE = re.compile(rb"t (\d{19})")


class Follower:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.connected = asyncio.Event()

    async def follow(self, port: int, token: str, job: str) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        request = (
            f"GET /api/v1/jobs/{job}/events HTTP/1.1\r\nHost: bench\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        )
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head
        self.connected.set()
        rest = b""
        while data := await reader.read(1 << 16):
            now = time.time_ns()
            *whole, rest = (rest + data).split(b"\n")
            self.seen += [(int(at), now) for line in whole for at in LINE.findall(line)]
            if any(line == b"0\r" for line in whole):  # the last chunk
                break
        writer.close()


async def follow_all(port: int, token: str, job: str, count: int) -> dict[str, list[float]]:
    followers = [Follower() for _ in range(count)]
    work = [asyncio.create_task(f.follow(port, token, job)) for f in followers]
    await asyncio.gather(*(follower.connected.wait() for follower in followers))
    ready = time.time_ns()
    await asyncio.gather(*work)
    late = [(now - at) / 1e9 for f in followers for at, now in f.seen if at > ready]
    return {"late_s": late, "lines": [len(follower.seen) for follower in followers]}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    found = asyncio.run(
        follow_all(int(arguments[0]), arguments[1], arguments[2], int(arguments[3]))
    )
    sys.stdout.write(json.dumps(found))
