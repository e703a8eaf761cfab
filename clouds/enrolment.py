"""How a machine becomes a node: one-time tokens, enrolment, re-enrolment, revocation.

Owns `Node.key_hash`, `EnrolToken` and the birth of `Incarnation`. Secrets are stored as SHA-256 only. A node enrols
after it has killed everything of its earlier lives, so those are dead from then on.
"""

import hashlib
import logging
import secrets
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from clouds import accounts, lifecycle
from clouds.cleaning import clean_text
from clouds.models import EnrolToken, Incarnation, Node, Site
from clouds.states import IncarnationStatus
from prominence.bus import announce_nodes, announce_queued
from worker.protocol import Enrolment, EnrolRequest, redis_user

logger = logging.getLogger(__name__)

TOKEN_LIFE_S = 3600.0
MAXIMUM_AMOUNT = 2**31 - 1  # of CPUs or MB: what an integer column holds
TEXT = 128


class EnrolmentRefused(Exception):
    """The token or key is unknown, used, expired or revoked. The text is safe to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Secrets:
    node_token: str
    key: str
    password: str

    @classmethod
    def make(cls, key: str | None) -> "_Secrets":
        """New ones; a node keeps the re-enrolment key it came with, so that a lost answer cannot lock it out."""
        return cls(
            node_token=secrets.token_urlsafe(32),
            key=key or secrets.token_urlsafe(32),
            password=secrets.token_urlsafe(32),
        )


def digest(secret: str) -> str:
    """What the database keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_enrol_token(*, name: str, site: str, life_s: float = TOKEN_LIFE_S) -> str:
    """A one-time token for a node of this name, which is made if it is new."""
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        place, _ = Site.objects.get_or_create(name=site)
        node, _ = Node.objects.get_or_create(name=name, defaults={"site": place})
        EnrolToken.objects.create(
            token_hash=digest(token), node=node, expires_at=Now() + timedelta(seconds=life_s)
        )
    return token


def enrol(request: EnrolRequest) -> Enrolment:
    """Make a new incarnation; whatever this node was before is dead. Raises EnrolmentRefused, redis.RedisError."""
    boot = clean_text(request.boot, TEXT)
    node = _admit(request, boot)
    old = list(Incarnation.objects.filter(node=node).exclude(status=IncarnationStatus.DEAD))
    for incarnation in old:
        lifecycle.salvage(incarnation)
    made = _Secrets.make(request.key)
    with transaction.atomic():
        Node.objects.select_for_update().get(pk=node.pk)
        lifecycle.bury_others(node, detail="the node enrolled anew")
        Node.objects.filter(pk=node.pk).update(key_hash=digest(made.key))
        row = Incarnation.objects.create(
            node=node,
            boot=boot,
            hostname=clean_text(request.hostname, TEXT),
            token_hash=digest(made.node_token),
            redis_password_hash=digest(made.password),
            runtimes={
                clean_text(k, TEXT): clean_text(v, TEXT) for k, v in request.runtimes.items()
            },
            isolated=request.isolated,
            lease_s=settings.CONFIG.lease_s,
            **_capacity(request),
        )
    accounts.create_users([row])
    announce_nodes()
    announce_queued([])
    logger.info("node %s enrolled as incarnation %s", node.name, row.pk)
    return _answer(node, row, made)


def _capacity(request: EnrolRequest) -> dict[str, int]:
    capacity = request.capacity
    amounts = (capacity.cpus, capacity.memory_mb, capacity.disk_mb)
    if min(amounts) < 1 or max(amounts) > MAXIMUM_AMOUNT:
        raise EnrolmentRefused(f"CPUs, MB of memory and MB of disk must be 1 to {MAXIMUM_AMOUNT}")
    values = {"cpus": capacity.cpus, "memory_mb": capacity.memory_mb, "disk_mb": capacity.disk_mb}
    return {**values, **{f"{name}_free": value for name, value in values.items()}}


def _admit(request: EnrolRequest, boot: str) -> Node:
    """The node that the token or key stands for."""
    if request.token:
        return _admit_by_token(request.token, boot)
    if request.key:
        nodes = Node.objects.filter(key_hash=digest(request.key), revoked_at__isnull=True)
        if node := nodes.select_related("site").first():
            return node
    raise EnrolmentRefused("this node is not known or its key was revoked")


def _admit_by_token(token: str, boot: str) -> Node:
    """Use the token up. The machine that used it may ask again, since its first answer may have been lost."""
    mine = EnrolToken.objects.filter(token_hash=digest(token))
    fresh = mine.filter(used_at__isnull=True, expires_at__gt=Now())
    again = mine.filter(used_by=boot, expires_at__gt=Now())
    if not fresh.update(used_at=Now(), used_by=boot) and not again.exists():
        mine.update(refused_uses=F("refused_uses") + 1)
        logger.warning("an enrolment token was refused")
        raise EnrolmentRefused("this enrolment token is not known, was used or has expired")
    node = Node.objects.select_related("site").get(enrol_tokens__token_hash=digest(token))
    if node.revoked_at is not None:
        raise EnrolmentRefused("this node was revoked")
    return node


def _answer(node: Node, row: Incarnation, made: _Secrets) -> Enrolment:
    config = settings.CONFIG
    return Enrolment(
        node=node.pk,
        node_name=node.name,
        site=node.site.name,
        incarnation=row.pk,
        node_token=made.node_token,
        key=made.key,
        redis_url=node_redis_url(config.node_redis_url, row.pk, made.password),
        api_url=config.public_url,
        lease_s=config.lease_s,
        heartbeat_s=config.heartbeat_s,
        mirrors=dict(config.registry_mirrors),
        log_window_bytes=config.log_window_bytes,
        log_cap_bytes=config.log_cap_bytes,
        output_file_bytes=config.output_file_bytes,
        allow_process_runtime=config.allow_process_runtime,
    )


def node_redis_url(base: str, incarnation: int, password: str) -> str:
    """The Redis address with this incarnation's credentials in place of any others."""
    url = urlsplit(base)
    host = url.hostname or "127.0.0.1"
    port = f":{url.port}" if url.port else ""
    netloc = f"{redis_user(incarnation)}:{password}@{host}{port}"
    return urlunsplit((url.scheme, netloc, url.path, url.query, ""))


def incarnation_of_token(node_token: str) -> Incarnation | None:
    """Who speaks with this node token; None if nobody does."""
    rows = Incarnation.objects.filter(token_hash=digest(node_token))
    return rows.select_related("node").first()
