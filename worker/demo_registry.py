"""An image registry on loopback, filled with demonstration images, as a child of this process.

For `--demo-images` and tests: stands in for public registries through a node's image mirrors
({"docker.io": registry.url}). Not a production registry: plain http, no other accounts than given.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.image_maker import (
    ImageConfig,
    build_busybox_image,
    build_pi_image,
    push_image,
)
from worker.runtimes.base import Credential
from worker.runtimes.identity import die_with_parent

START_TIMEOUT_S = 15.0
POLL_S = 0.02
SIGTERM = 15


class RegistryNotStartedError(Exception):
    """The registry could not be started; the text says what to install or what it printed."""


class DemoRegistry:
    """Debian's docker-registry serving one data directory; stops with this process.

    `port` 0 takes a free one. With `credential`, only that account may push and pull.
    """

    def __init__(self, data: Path, *, port: int = 0, credential: Credential | None = None) -> None:
        self._data = data
        self._port = port
        self._credential = credential
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base URL, such as http://127.0.0.1:5000; meaningful once started."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start and wait until it answers. Raises RegistryNotStartedError; idempotent while it runs."""
        if self._process is not None:
            return
        program = _require("docker-registry", "docker-registry")
        self._data.mkdir(parents=True, exist_ok=True)
        self._port = self._port or _free_port()
        config, log = self._data / "config.json", self._data / "registry.log"
        config.write_text(json.dumps(self._configuration()))
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [program, "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with_parent(SIGTERM),
            )
        self._wait(self._process, log)

    def push_demo_images(self) -> dict[str, str]:
        """Put the demonstration images in; return their digests by name."""
        images = {
            "library/busybox:latest": build_busybox_image(ImageConfig(command=("sh",))),
            "eoscprominence/testpi:latest": build_pi_image(),
        }
        return {
            name: push_image(image, self.url, name=name, credential=self._credential)
            for name, image in images.items()
        }

    def stop(self) -> None:
        """Stop the process and wait for it. Idempotent."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _configuration(self) -> dict[str, object]:
        # YAML is a superset of JSON.
        document: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._data / "images")}},
            "http": {"addr": f"127.0.0.1:{self._port}", "secret": "loopback"},
        }
        if self._credential:
            document["auth"] = {
                "htpasswd": {
                    "realm": "prominence",
                    "path": str(self._write_accounts(self._credential)),
                }
            }
        return document

    def _write_accounts(self, credential: Credential) -> Path:
        program = _require("htpasswd", "apache2-utils")
        line = subprocess.run(
            [program, "-niB", credential.username],
            input=credential.token.encode(),
            capture_output=True,
            check=True,
        )
        path = self._data / "htpasswd"
        path.touch(mode=0o600)
        path.write_bytes(line.stdout)
        return path

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            if _answers(f"{self.url}/v2/"):
                return
            time.sleep(POLL_S)
        self.stop()
        raise RegistryNotStartedError(f"docker-registry: {log.read_text()[-1000:]}")


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False
    return True


def _require(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise RegistryNotStartedError(f"{program} is missing: install Debian's package {package}")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
