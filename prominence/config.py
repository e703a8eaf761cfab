"""What an operator can set: `PROMINENCE_*` environment variables, read once into one frozen value.

Owns names, types, defaults and units of the settings; must not import Django or read anything but the mapping it is
given and the files that `NAME_FILE` variables point to. A secret may be given as `PROMINENCE_X_FILE=/path`.
"""

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FERNET_KEY_BYTES = 32


class ConfigError(ValueError):
    """A setting has a value that cannot be used; the text names the variable and what is allowed."""


def default_data_dir(env: Mapping[str, str]) -> Path:
    """The user's data directory for PROMINENCE (XDG base directory specification)."""
    base = env.get("XDG_DATA_HOME") or str(Path(env.get("HOME", "/root")) / ".local" / "share")
    return Path(base) / "prominence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting. Times in seconds, sizes in bytes unless the name says otherwise."""

    data: Path
    database_url: str
    redis_url: str
    node_redis_url: str
    public_url: str
    secret_key: str
    secrets_keys: tuple[str, ...]
    debug: bool
    allowed_hosts: tuple[str, ...]
    registry_mirrors: Mapping[str, str]
    lease_s: float
    heartbeat_s: float
    republish_s: float
    stuck_s: float
    retention_jobs_days: float
    retention_nodes_days: float
    api_threads: int
    metrics_token: str
    log_window_bytes: int
    log_cap_bytes: int
    output_file_bytes: int
    output_job_bytes: int
    output_url_s: float
    allow_process_runtime: bool
    email_url: str
    email_from: str
    webhook_private_addresses: bool

    @property
    def embedded_database(self) -> bool:
        """True when no PostgreSQL was given: SQLite under the data directory."""
        return not self.database_url

    @property
    def sqlite_path(self) -> Path:
        return self.data / "prominence.sqlite3"

    @property
    def objects_dir(self) -> Path:
        """Where the `local` object store keeps logs, inputs and outputs."""
        return self.data / "objects"


def load_config(env: Mapping[str, str] | None = None) -> Config:
    """Read all settings from `env` (default: the process environment).

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """
    reader = _Reader(os.environ if env is None else env)
    data = Path(reader.text("DATA") or default_data_dir(reader.env)).expanduser().absolute()
    redis_url = reader.text("REDIS_URL") or _stored(data / "run" / "redis-url")
    return Config(
        data=data,
        database_url=reader.text("DATABASE_URL"),
        redis_url=redis_url,
        node_redis_url=reader.text("NODE_REDIS_URL") or redis_url,
        public_url=(
            reader.text("URL") or _stored(data / "run" / "url") or "http://127.0.0.1:8000/api/v1"
        ).rstrip("/"),
        secret_key=reader.text("SECRET_KEY") or _secret(data / "secret-key"),
        secrets_keys=_fernet_keys(
            reader.text("SECRETS_KEYS") or _secret(data / "secrets-key", _new_fernet_key)
        ),
        debug=reader.flag("DEBUG"),
        allowed_hosts=tuple(reader.text("ALLOWED_HOSTS", "*").split(",")),
        registry_mirrors=reader.pairs("REGISTRY_MIRRORS"),
        lease_s=reader.number("LEASE_S", 600.0, low=1),
        heartbeat_s=reader.number("HEARTBEAT_S", 10.0, low=0.1),
        republish_s=reader.number("REPUBLISH_S", 5.0, low=0.1),
        retention_jobs_days=reader.number("RETENTION_JOBS_DAYS", 0.0, low=0),
        retention_nodes_days=reader.number("RETENTION_NODES_DAYS", 30.0, low=1),
        stuck_s=reader.number("STUCK_S", 15.0, low=1),
        api_threads=int(reader.number("API_THREADS", 8, low=1)),
        metrics_token=reader.text("METRICS_TOKEN"),
        log_window_bytes=int(reader.number("LOG_WINDOW_BYTES", 4 << 20, low=1 << 16)),
        log_cap_bytes=int(reader.number("LOG_CAP_BYTES", 1 << 30, low=1 << 16)),
        output_file_bytes=int(reader.number("OUTPUT_FILE_BYTES", 5 << 30, low=1)),
        output_job_bytes=int(reader.number("OUTPUT_JOB_BYTES", 50 << 30, low=1)),
        output_url_s=reader.number("OUTPUT_URL_S", 7 * 86400.0, low=60),
        allow_process_runtime=reader.flag("ALLOW_PROCESS_RUNTIME"),
        email_url=reader.text("EMAIL_URL"),
        email_from=reader.text("EMAIL_FROM", "prominence@localhost"),
        webhook_private_addresses=reader.flag("WEBHOOK_PRIVATE_ADDRESSES"),
    )


def _stored(path: Path) -> str:
    """What a running embedded stack wrote about itself, or nothing."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _fernet_keys(text: str) -> tuple[str, ...]:
    """Keys separated by commas; each is 32 bytes in URL-safe base64, as `Fernet.generate_key` makes them."""
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    for key in keys:
        try:
            size = len(base64.urlsafe_b64decode(key))
        except ValueError:
            size = 0
        if size != FERNET_KEY_BYTES:
            raise ConfigError(
                "PROMINENCE_SECRETS_KEYS: each key must be 32 bytes in URL-safe base64"
            )
    return keys


def _new_signing_key() -> str:
    return secrets.token_urlsafe(48)


def _new_fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(FERNET_KEY_BYTES)).decode()


def _secret(path: Path, make: Callable[[], str] = _new_signing_key) -> str:
    """A key of this data directory, made on first use; O_EXCL so that two starters agree."""
    try:
        return path.read_text()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(make())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text()


class _Reader:
    """Typed access to `PROMINENCE_*` with the `_FILE` form."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env

    def text(self, name: str, default: str = "") -> str:
        key = f"PROMINENCE_{name}"
        if file := self.env.get(f"{key}_FILE"):
            try:
                return Path(file).read_text().strip()
            except OSError as error:
                raise ConfigError(f"{key}_FILE: cannot read {file}: {error.strerror}") from error
        return self.env.get(key, default)

    def number(self, name: str, default: float, *, low: float) -> float:
        text = self.text(name)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError as error:
            raise ConfigError(f"PROMINENCE_{name}: {text!r} is not a number") from error
        if value < low:
            raise ConfigError(f"PROMINENCE_{name}: {text} is below the minimum {low}")
        return value

    def flag(self, name: str) -> bool:
        text = self.text(name, "0").lower()
        if text not in {"0", "1", "true", "false", "yes", "no"}:
            raise ConfigError(
                f"PROMINENCE_{name}: {text!r} is not one of 0, 1, true, false, yes, no"
            )
        return text in {"1", "true", "yes"}

    def pairs(self, name: str) -> dict[str, str]:
        """`docker.io=http://127.0.0.1:5000,quay.io=https://mirror` as a mapping."""
        pairs = {}
        for item in filter(None, self.text(name).split(",")):
            key, equals, value = item.partition("=")
            if not (key and equals and value.startswith(("http://", "https://"))):
                raise ConfigError(f"PROMINENCE_{name}: {item!r} is not registry=http(s)://mirror")
            pairs[key.strip()] = value.strip().rstrip("/")
        return pairs
