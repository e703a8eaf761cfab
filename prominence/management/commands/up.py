"""`manage.py up`: the embedded stack in the foreground. Parses, starts the parts in order, and reports.

The parts themselves are in `prominence.embedded`.
"""

import argparse
import io
import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from django.db import connections
from django.utils import timezone

from clouds.models import Incarnation
from clouds.states import IncarnationStatus
from prominence.embedded.data_dir import DataDir, DataDirBusyError, PortBusyError
from prominence.embedded.parts import NodeCapacity, Parts, setup_command
from prominence.embedded.supervisor import EndRequestedError, Part, PartFailedError, Supervisor
from prominence.embedded.valkey import HOST, Valkey, ValkeyNotFoundError, write_private

READY_TIMEOUT_S = 60.0
MISSING = 3  # exit code of the set-up scripts when something is missing and they may not install it


class Command(BaseCommand):
    help = "Run everything on this machine in the foreground: API, control plane, nodes, Valkey."
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        capacity = NodeCapacity()
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", type=int, default=8000, help="0: a free one")
        parser.add_argument("--url", default="", help="public address of the API, if it differs")
        parser.add_argument("--local-nodes", type=int, default=1, help="nodes on this machine")
        parser.add_argument(
            "--node-cpus", type=int, default=max(capacity.cpus, os.cpu_count() or 1)
        )
        parser.add_argument("--node-memory", type=int, default=capacity.memory_gb, help="GB")
        parser.add_argument("--node-disk", type=int, default=capacity.disk_gb, help="GB")
        parser.add_argument(
            "--demo-images", action="store_true", help="a registry with small images for Docker Hub"
        )
        parser.add_argument("--verbose", action="store_true", help="show the parts' logs")

    def handle(self, *_: Any, **options: Any) -> None:
        data = DataDir(settings.CONFIG.data)
        os.umask(0o077)  # the database is nobody else's
        try:
            with (
                data.hold(),
                Supervisor(logs=data.logs, pids=data.run, verbose=options["verbose"]) as supervisor,
            ):
                _Start(data=data, options=options, supervisor=supervisor, say=self._say).run()
        except EndRequestedError as end:
            self._say(f"ended by {end}")
        except (DataDirBusyError, PortBusyError, PartFailedError, ValkeyNotFoundError) as error:
            raise CommandError(str(error)) from error

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


class _Start:
    """One start of the stack, step by step."""

    def __init__(
        self,
        *,
        data: DataDir,
        options: dict[str, Any],
        supervisor: Supervisor,
        say: Callable[[str], None],
    ) -> None:
        self._data = data
        self._options = options
        self._supervisor = supervisor
        self._say = say
        self._began = time.monotonic()

    def run(self) -> None:
        """Start everything, say so, and stay until told to end (EndRequestedError)."""
        self._say(f"PROMINENCE in {self._data.root} (process {os.getpid()}, Ctrl-C ends it)")
        host = self._options["host"]
        port = self._data.port("api", host=host, wanted=self._options["port"])
        self._install_runtimes()
        parts = self._parts(host, port)
        shared = self._start_shared(parts)
        self._migrate()
        self._await(*shared)
        servers = [parts.api(host, port), parts.control(), parts.worker()]
        self._supervisor.start(*servers)
        nodes = self._start_nodes(parts)
        self._await(*servers, *nodes)
        self._welcome(parts.url)
        self._supervisor.run()

    def _install_runtimes(self) -> None:
        with_registry = self._options["demo_images"]
        if not (self._options["local_nodes"] or with_registry):
            return
        log = self._supervisor.log_of("setup")
        log.unlink(missing_ok=True)
        code = self._supervisor.run_once("setup", setup_command(with_registry=with_registry))
        report = log.read_text().strip()
        if code == MISSING:
            self._say(f"going on without container runtimes:\n{report}")
        elif code:
            self._say(f"installing container runtimes failed; see {log}")
        elif report:
            self._say(report)

    def _parts(self, host: str, port: int) -> Parts:
        """Everything that the parts have to know, and written where they look for it."""
        reachable = HOST if host in {"0.0.0.0", "::"} else host  # noqa: S104 a comparison
        url = self._options["url"].rstrip("/") or f"http://{_bracketed(reachable)}:{port}/api/v1"
        mirrors = settings.CONFIG.registry_mirrors
        if self._options["demo_images"]:
            registry_port = self._data.port("registry", host=HOST)
            mirrors = dict(mirrors) | {"docker.io": f"http://{HOST}:{registry_port}"}
        joined = ",".join(f"{name}={mirror}" for name, mirror in mirrors.items())
        return Parts(data=self._data, url=url, mirrors=joined)

    def _start_shared(self, parts: Parts) -> list[Part]:
        """Valkey, unless a Redis was given, and the registry of demo images."""
        shared = []
        given = settings.CONFIG.redis_url if _is_given("PROMINENCE_REDIS_URL") else ""
        if given:
            self._data.publish(url=parts.url, redis_url=given)
        else:
            valkey_port = self._data.port("valkey", host=HOST)
            valkey = Valkey(directory=self._data.valkey, port=valkey_port)
            self._data.publish(url=parts.url, redis_url=valkey.url)
            shared.append(parts.valkey(valkey))
        if self._options["demo_images"]:
            shared.append(parts.registry(self._data.port("registry", host=HOST)))
        self._supervisor.start(*shared)
        return shared

    def _migrate(self) -> None:
        call_command("migrate", verbosity=0, interactive=False)
        connections.close_all()

    def _start_nodes(self, parts: Parts) -> list[Part]:
        capacity = NodeCapacity(
            cpus=self._options["node_cpus"],
            memory_gb=self._options["node_memory"],
            disk_gb=self._options["node_disk"],
        )
        nodes = []
        for number in range(1, self._options["local_nodes"] + 1):
            name = f"local-{number}"
            token = self._enrolment_token(name)
            nodes.append(parts.node(name, token, capacity, _heard_of(name)))
            if not self._data.node(name).is_relative_to(self._data.root):
                self._say(f"  {name}: data in {self._data.node(name)}, as jobs run as other users")
        self._supervisor.start(*nodes)
        return nodes

    def _enrolment_token(self, name: str) -> Any:
        """A new one-time token in a file only we can read; a node that has enrolled before does not need it."""
        answer = io.StringIO()
        call_command("node-token", name, site="local", stdout=answer)
        token = self._data.run / f"node-{name}-token"
        write_private(token, answer.getvalue().strip())
        return token

    def _await(self, *parts: Part) -> None:
        for part in parts:
            self._supervisor.wait_ready(part, timeout_s=READY_TIMEOUT_S)
            self._say(f"  {part.name:<14} ready")

    def _welcome(self, url: str) -> None:
        site = url.removesuffix("/api/v1")
        manage = f"{shlex.quote(sys.executable)} manage.py"
        here = f"--data {shlex.quote(str(self._data.root))}"
        self._say(f"ready after {time.monotonic() - self._began:.1f} s")
        self._say(f"  API    {url}")
        self._say(f"  token  {manage} token USER {here}")
        self._say(f"  admin  {site}/admin/  (password: {manage} admin USER {here})")
        self._say(f"  logs   {self._data.logs}")


def _heard_of(name: str) -> Callable[[], bool]:
    """Has this node been heard since now?"""
    since = timezone.now()

    def is_ready() -> bool:
        return Incarnation.objects.filter(
            node__name=name, status=IncarnationStatus.READY, heard_at__gte=since
        ).exists()

    return is_ready


def _is_given(name: str) -> bool:
    return bool(os.environ.get(name) or os.environ.get(f"{name}_FILE"))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
