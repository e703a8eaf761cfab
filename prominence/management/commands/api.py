"""`manage.py api`: serve the REST API, the admin and events until a signal comes."""

import asyncio
import os
import signal
import socket
from argparse import ArgumentParser
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandError

from prominence.asgi import Application, application

GRACE_S = 1.5
BACKLOG = 2048


class Command(BaseCommand):
    help = "Serve the API until SIGTERM or SIGINT."
    # A server that restarts should answer soon; `manage.py check` belongs to building and upgrading.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000, help="0: any free port")
        parser.add_argument("--ready-file", type=Path, help="write the port here once it answers")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            listener = _listen(options["host"], options["port"])
        except OSError as error:
            raise CommandError(
                f"cannot listen on {options['host']}:{options['port']}: {error.strerror}"
            ) from error
        port = listener.getsockname()[1]

        def ready() -> None:
            if options["ready_file"]:
                _write(options["ready_file"], f"{port}\n")
            host = f"[{options['host']}]" if ":" in options["host"] else options["host"]
            self.stdout.write(f"API at http://{host}:{port}/api/v1")
            self.stdout.flush()

        asyncio.run(_serve(listener, ready))


class _Server(uvicorn.Server):
    """uvicorn that says when it answers, sends followers away first when it ends, and then returns normally."""

    def __init__(self, config: uvicorn.Config, app: Application, ready: Any) -> None:
        super().__init__(config)
        self._app = app
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.events.hub.begin_closing()
        await super().shutdown(sockets)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Not uvicorn's way, which raises the signal again after a clean end."""
        return nullcontext()


async def _serve(listener: socket.socket, ready: Any) -> None:
    config = uvicorn.Config(
        application,
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="on",
        http="httptools",
        ws="none",
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,  # type: ignore[arg-type]  # only ever given to wait_for
    )
    server = _Server(config, application, ready)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    await server.serve(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Inherited by each connection. asyncio sets it only on sockets made with an explicit protocol number; without it
    # the body of an answer waits 40 ms for the client's delayed acknowledgement of the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _write(path: Path, text: str) -> None:
    """Whole or not at all: somebody waits for this file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
