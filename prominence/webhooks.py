"""Sending a signed POST to an address that a user gave, without letting it reach what the user could not.

Owns the signature and the choice of the address: the host is resolved here, once, every address of it must be public
(unless `PROMINENCE_WEBHOOK_PRIVATE_ADDRESSES` allows others), and the connection goes to the address that was checked,
so that a second answer of the name server changes nothing. No proxy, no redirect; the answer's body is not read.
"""

import hashlib
import hmac
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3

TIMEOUT_S = 10.0


class NotDelivered(Exception):
    """The text says why; it holds nothing of the answer's body. `final`: trying again cannot help."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message. `identity` is the same at each try, so that receivers can tell repeats."""

    url: str
    identity: str
    body: bytes
    key: bytes


def signature(key: bytes, timestamp: int, body: bytes) -> str:
    """`sha256=` and the HMAC of "timestamp.body" in hex."""
    return "sha256=" + hmac.new(key, b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def deliver(delivery: Delivery, *, now: int, allow_private: bool) -> None:
    """POST it; returns when the receiver answered 2xx. Blocks for `TIMEOUT_S` a step.

    Raises:
        NotDelivered: refused address, no connection, or another answer.
    """
    parts = urlsplit(delivery.url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = _address_of(host, port, allow_private=allow_private)
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "User-Agent": "PROMINENCE",
        "X-Prominence-Delivery": delivery.identity,
        "X-Prominence-Timestamp": str(now),
        "X-Prominence-Signature": signature(delivery.key, now, delivery.body),
    }
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with _pool(address, port, host if secure else "") as pool:
        try:
            answer = pool.urlopen(
                "POST", path, body=delivery.body, headers=headers, redirect=False,
                retries=False, preload_content=False,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise NotDelivered(type(error).__name__) from error
        answer.close()
        if not 200 <= answer.status < 300:
            raise NotDelivered(f"answer {answer.status}", final=answer.status == 410)


def _pool(address: str, port: int, name: str) -> urllib3.HTTPConnectionPool:
    """Connections to this address; for TLS the certificate must be `name`'s."""
    timeout = urllib3.Timeout(connect=TIMEOUT_S, read=TIMEOUT_S)
    if not name:
        return urllib3.HTTPConnectionPool(address, port, timeout=timeout)
    return urllib3.HTTPSConnectionPool(
        address, port, timeout=timeout, server_hostname=name, assert_hostname=name
    )


def _address_of(host: str, port: int, *, allow_private: bool) -> str:
    """The first address of a host, all of which may be spoken to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotDelivered("its host has no address") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private and not all(map(_is_public, addresses)):
        raise NotDelivered("its host is not a public address", final=True)
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    return bool(ip.is_global and mapped.is_global and not (ip.is_multicast or mapped.is_multicast))
