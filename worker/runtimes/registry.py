"""A pull client for the OCI/Docker registry protocol, version 2.

Why not the runtimes' own clients: udocker hands credentials to curl in its argv, does not verify
digests and cannot name `host:port/image`; Apptainer reports every failure alike and no digest. One
client gives both runtimes the same names, mirrors, errors and digests.

Source: distribution.github.io/distribution/spec (api, auth/token) and the OCI image specification.
"""

import base64
import hashlib
import json
import platform
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from worker.runtimes.base import Credential
from worker.runtimes.download import HashedFile, Response, get, raise_for_status, store
from worker.runtimes.errors import ImageDenied, ImageUnusable, NoSpace, RegistryAway
from worker.runtimes.names import Reference, is_digest

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEXES = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
MANIFESTS = ", ".join((*INDEXES, OCI_MANIFEST, DOCKER_MANIFEST))
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PARALLEL_LAYERS = 3
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledImage:
    """What was downloaded: the asked manifest's digest, the image's config, its layers in order."""

    digest: str
    config: bytes
    layers: tuple[Path, ...]


@dataclass(slots=True, kw_only=True)
class RegistryClient:
    """Pulls from one repository of one registry; keeps the token it is given on the way."""

    base_url: str
    reference: Reference
    credential: Credential | None = None
    _authorization: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def resolve(self) -> str:
        """The digest that the tag has now, and proof that this credential may read it: one request.

        Raises ImagePullFailed and kin.
        """
        answer = self._get(f"manifests/{self.reference.tag}", MANIFESTS, method="HEAD")
        digest = str(answer.headers.get("Docker-Content-Digest", ""))
        return digest if is_digest(digest) else self._manifest(self.reference.tag)[0]

    def pull(self, into: Path) -> PulledImage:
        """Download this machine's variant of the image; layers become files in `into`.

        Every byte is checked against the digest that names it. Raises ImagePullFailed and kin.
        """
        digest, manifest = self._manifest(self.reference.tag)
        if manifest.get("mediaType") in INDEXES or "manifests" in manifest:
            _, manifest = self._manifest(_choose_platform(manifest, self._name))
        if "config" not in manifest or "layers" not in manifest:
            raise ImageUnusable(f"{self._name}: not an image of manifest schema 2")
        config = self._blob(manifest["config"], into / "config.json").read_bytes()
        layers = manifest["layers"]
        self._check_space(sum(int(layer["size"]) for layer in layers), into)
        with ThreadPoolExecutor(PARALLEL_LAYERS) as pool:
            files = [into / f"{place}.layer" for place in range(len(layers))]
            paths = tuple(pool.map(self._blob, layers, files))
        return PulledImage(digest=digest, config=config, layers=paths)

    @property
    def _name(self) -> str:
        reference = self.reference
        colon = "@" if ":" in reference.tag else ":"
        return f"{reference.host}/{reference.repository}{colon}{reference.tag}"

    def _check_space(self, size: int, into: Path) -> None:
        # Twice: as downloaded, and in the archive made of it. What it unpacks to is not known yet.
        free = shutil.disk_usage(into).free
        if 2 * size > free:
            raise NoSpace(f"{self._name}: {size} bytes to download, {free} bytes free")

    def _manifest(self, tag: str) -> tuple[str, dict[str, Any]]:
        answer = self._get(f"manifests/{tag}", MANIFESTS)
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if tag.startswith("sha256:") and tag != digest:
            raise ImageUnusable(f"{self._name}: manifest does not match its digest")
        try:
            manifest = json.loads(answer.body)
        except ValueError as error:
            raise ImageUnusable(f"{self._name}: manifest is not JSON") from error
        if not isinstance(manifest, dict):
            raise ImageUnusable(f"{self._name}: manifest is not an object")
        return digest, manifest

    def _blob(self, descriptor: dict[str, Any], path: Path) -> Path:
        digest = str(descriptor["digest"])
        file = HashedFile(path=path, limit_bytes=int(descriptor["size"]))
        url = self._url(f"blobs/{digest}")
        try:
            store(url, file, self._authorization)
        except ImageDenied:
            # Tokens are short-lived (five minutes at Docker Hub), pulls may not be.
            self._authorization = {}
            self._manifest(self.reference.tag)
            store(url, file, self._authorization)
        if file.digest != digest:
            raise RegistryAway(f"{self._name}: {digest} arrived damaged")
        return path

    def _url(self, rest: str) -> str:
        return f"{self.base_url.rstrip('/')}/v2/{self.reference.repository}/{rest}"

    def _get(self, rest: str, accept: str, *, method: str = "GET") -> Response:
        url = self._url(rest)
        answer = get(url, {**self._authorization, "Accept": accept}, method=method)
        if answer.status == 401 and not self._authorization:
            self._authorize(answer.headers.get("WWW-Authenticate", ""))
            answer = get(url, {**self._authorization, "Accept": accept}, method=method)
        raise_for_status(answer.status, self._name)
        return answer

    def _authorize(self, challenge: str) -> None:
        scheme, _, fields = challenge.partition(" ")
        if scheme.lower() == "basic" and self.credential:
            self._authorization = _basic(self.credential)
        elif scheme.lower() == "bearer":
            self._authorization = self._bearer(dict(_CHALLENGE.findall(fields)))
        else:
            raise ImageDenied(f"{self._name}: the registry wants a credential")

    def _bearer(self, challenge: dict[str, str]) -> dict[str, str]:
        realm = challenge.get("realm", "")
        query = {name: text for name, text in challenge.items() if name in ("service", "scope")}
        basic = _basic(self.credential) if self.credential and self._may_see_login(realm) else {}
        answer = get(f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", basic)
        raise_for_status(answer.status, self._name)
        try:
            body = json.loads(answer.body)
            token = body.get("token") or body["access_token"]
        except (ValueError, KeyError, AttributeError) as error:
            raise RegistryAway(f"{self._name}: the registry gave no token") from error
        return {"Authorization": f"Bearer {token}"}

    def _may_see_login(self, realm: str) -> bool:
        # Plain http only to the host that was asked over plain http anyway.
        parts, own = urlsplit(realm), urlsplit(self.base_url)
        return parts.scheme == "https" or parts.hostname == own.hostname


def _basic(credential: Credential) -> dict[str, str]:
    pair = f"{credential.username}:{credential.token}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _choose_platform(index: dict[str, Any], name: str) -> str:
    for entry in index.get("manifests", ()):
        system = entry.get("platform") or {}
        if (system.get("os"), system.get("architecture")) == ("linux", ARCHITECTURE):
            return str(entry["digest"])
    raise ImageUnusable(f"{name}: has no variant for linux/{ARCHITECTURE}")
