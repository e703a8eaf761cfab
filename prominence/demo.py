"""`make demo`: the whole way of one container job on this machine, shown as it happens, leaving nothing behind.

A client of `manage.py up` and of the REST API, like any other: imports nothing of the server.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
LOG_TAIL_LINES = 20
JOB_TIMEOUT_S = 120
STOP_TIMEOUT_S = 40
JOB = {
    "name": "demo",
    "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
    "tasks": [
        {
            "image": "busybox",
            "runtime": "singularity",
            "cmd": "sh -c 'for i in 1 2 3 4 5; do echo line $i from $(hostname); sleep 1; done; date >&2'",
        }
    ],
}
# The environment may name a proxy for the outer world; the demonstration is on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoFailedError(Exception):
    """Something did not go as it should; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The REST API with a user's token."""

    url: str
    token: str

    def call(self, method: str, path: str, document: object = None) -> Any:
        """The decoded JSON answer."""
        with self.open(method, path, document) as answer:
            return json.load(answer)

    def open(self, method: str, path: str, document: object = None) -> Any:
        """The open response. Raises DemoFailedError."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(  # noqa: S310 our own address
            f"{self.url}{path}", data=body, headers=headers, method=method
        )
        try:
            return _opener.open(request, timeout=JOB_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            raise DemoFailedError(f"{method} {path}: {error.code} {error.read()!r}") from error
        except OSError as error:
            raise DemoFailedError(f"{method} {path}: {error}") from error


def main() -> int:
    """Run the demonstration; 0 when all went well."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prominence-demo-") as name:
        data = Path(name)
        up = _start_up(data)
        try:
            _watch_start(up)
            _run_job(_api(data))
            failure = ""
        except (DemoFailedError, KeyboardInterrupt) as error:
            failure = str(error) or "interrupted"
        code = _end(up)
        failure = failure or ("" if code == 0 else f"'up' ended with exit code {code}")
        if failure:
            _say(_log_tails(data))
            _say(f"demo failed: {failure}")
            return 1
    _say(f"demo ended well after {time.monotonic() - began:.1f} s; nothing is left of it")
    return 0


def _start_up(data: Path) -> "subprocess.Popen[str]":
    argv = [sys.executable, "manage.py", "up", "--data", str(data), "--port", "0", "--demo-images"]
    _say("$ python manage.py up --port 0 --demo-images --data " + str(data))
    # A session of its own: Ctrl-C is for us to pass on.
    return subprocess.Popen(
        argv,
        cwd=PROJECT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _watch_start(up: "subprocess.Popen[str]") -> None:
    """Show what `up` says, until it is ready."""
    assert up.stdout is not None  # noqa: S101 it is a pipe
    for line in up.stdout:
        _say(f"  {line.rstrip()}")
        if line.startswith("  logs"):  # the last line of its welcome
            return
    raise DemoFailedError("'up' did not start")


def _api(data: Path) -> Api:
    done = subprocess.run(
        [sys.executable, "manage.py", "token", "demo", "--data", str(data)],
        cwd=PROJECT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoFailedError(f"no token: {done.stderr}")
    return Api(url=(data / "run" / "url").read_text(), token=done.stdout.strip())


def _run_job(api: Api) -> None:
    """Submit, follow, describe."""
    _say("")
    _say(f"POST /jobs  {json.dumps(JOB)}")
    job = api.call("POST", "/jobs", JOB)["id"]
    began = time.monotonic()
    _say(f"job {job}; GET /jobs/{job}/events, as it arrives:")
    lines = 0
    for event, data in _follow(api, job):
        text = data.get("text") or data.get("status") or json.dumps(data)
        for line in text.splitlines():
            _say(f"  {time.monotonic() - began:6.2f} s  {event:<6}  {line}")
        lines += text.count("\n") if event == "stdout" else 0
    _say("")
    (description,) = api.call("GET", f"/jobs/{job}")
    _say(f"GET /jobs/{job}\n{json.dumps(description, indent=2)}")
    if description["status"] != "completed" or lines != 5:
        raise DemoFailedError(f"job {job} is {description['status']} with {lines} lines of output")


def _follow(api: Api, job: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events: (event, data), until `end`."""
    event = ""
    deadline = time.monotonic() + JOB_TIMEOUT_S
    with api.open("GET", f"/jobs/{job}/events") as answer:
        for raw in answer:  # at least a comment every 15 s
            if time.monotonic() > deadline:
                raise DemoFailedError(f"job {job} has not ended in {JOB_TIMEOUT_S} s")
            name, _, value = raw.decode().rstrip("\r\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                yield event, json.loads(value)
                if event == "end":
                    return


def _end(up: "subprocess.Popen[str]") -> int:
    """End `up` and with it everything."""
    up.send_signal(signal.SIGTERM)
    try:
        output, _ = up.communicate(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        up.kill()
        output, _ = up.communicate()
    for line in output.splitlines():
        _say(f"  {line}")
    return up.returncode


def _log_tails(data: Path) -> str:
    tails = []
    for log in sorted((data / "log").glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        tails.append("\n".join([f"---- {log.name}", *lines]))
    return "\n".join(tails)


def _environment() -> dict[str, str]:
    """Without the caller's settings: neither their database nor their data directory is to be touched."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PROMINENCE_")}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
