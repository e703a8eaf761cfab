"""What names of images stand for, as far as a node knows; and the keys of the image cache.

ROOT/names/KEY     digest, validator, and when that was true
ROOT/salt          keeps keys from telling anything about credentials
"""

import hashlib
import hmac
import json
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.locks import locked
from worker.runtimes.base import ImageRequest
from worker.runtimes.errors import ImageRateLimited, RegistryAway
from worker.runtimes.names import (
    HUB,
    SINGULARITY_HUB,
    ImageKind,
    image_kind,
    is_digest,
    parse_reference,
)
from worker.runtimes.sources import Resolved, resolve_image

KEPT_S = 30 * 86_400.0
"""How long a name is remembered after it was last asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a name stood for at a time (`time.time()`)."""

    resolved: Resolved
    at: float


class ImageNames:
    """The names in one cache directory. Whoever asks or remembers holds the name's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def fresh(self, request: ImageRequest, asked_at: float) -> str:
        """The digest, if it is known and good enough; else ""."""
        known = self._known(request)
        if known is None:
            return ""
        is_fixed = "@" in request.image and image_kind(request.image) is ImageKind.REGISTRY
        return known.resolved.digest if is_fixed or known.at >= asked_at else ""

    def ask(self, request: ImageRequest) -> Resolved:
        """Ask what the name stands for. Raises ImagePullFailed."""
        known = self._known(request)
        at = time.time()
        try:
            resolved = resolve_image(request, known.resolved if known else None)
        except (RegistryAway, ImageRateLimited):
            if known is None:
                raise
            return known.resolved
        if resolved.digest:
            self.remember(request, resolved, at)
        return resolved

    def _known(self, request: ImageRequest) -> _Known | None:
        found = read_json(self._root / "names" / self.key_of(request))
        if not is_digest(str(found.get("digest"))):
            return None
        resolved = Resolved(digest=found["digest"], validator=str(found.get("validator", "")))
        return _Known(resolved=resolved, at=float(found.get("at", 0)))

    def remember(self, request: ImageRequest, resolved: Resolved, at: float) -> None:
        path = self._root / "names" / self.key_of(request)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        record = {"digest": resolved.digest, "validator": resolved.validator, "at": at}
        draft.write_text(json.dumps(record))
        draft.rename(path)

    def key_of(self, request: ImageRequest) -> str:
        parts = ["name", request.image, _mirror(request)]
        if request.credential:
            parts += [request.credential.username, request.credential.token]
        return self.key(parts)

    def key(self, parts: list[str]) -> str:
        message = json.dumps(parts).encode()
        return hmac.new(self._salt(), message, hashlib.sha256).hexdigest()[:32]

    def _salt(self) -> bytes:
        path = self._root / "salt"
        with suppress(FileNotFoundError):
            return path.read_bytes()
        with locked(self._root / "locks" / "salt"):
            if not path.exists():
                draft = path.with_name(".salt")
                draft.touch(mode=0o600)
                draft.write_bytes(secrets.token_bytes(32))
                draft.rename(path)
            return path.read_bytes()

    def forget(self) -> None:
        """Remove names that nobody has asked about for long."""
        for name in (self._root / "names").iterdir():
            with suppress(FileNotFoundError):
                if name.stat().st_mtime < time.time() - KEPT_S:
                    name.unlink()


def _mirror(request: ImageRequest) -> str:
    kind = image_kind(request.image)
    if kind is ImageKind.SINGULARITY_HUB:
        return request.mirrors.get(SINGULARITY_HUB, "")
    if kind is not ImageKind.REGISTRY:
        return ""
    with suppress(ValueError):
        return request.mirrors.get(parse_reference(request.image).host, "")
    return request.mirrors.get(HUB, "")


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; {} when it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
