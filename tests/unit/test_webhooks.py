"""Signed POSTs to addresses that users gave: where they may go, and what comes there (U20)."""

import hashlib
import hmac
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prominence.webhooks import Delivery, NotDelivered, deliver

KEY, NOW = b"0123456789abcdef", 1_700_000_000


@dataclass
class Receiver:
    """What a local server was sent; `answers` are given in turn, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    told = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {key.lower(): value for key, value in self.headers.items()}
            told.got.append((self.path, headers, body))
            self.send_response(told.answers.pop(0) if told.answers else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}/hook?a=b"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


def send(url: str, *, allow_private: bool = True) -> None:
    delivery = Delivery(url=url, identity="7.0", body=b'{"a": 1}', key=KEY)
    deliver(delivery, now=NOW, allow_private=allow_private)


def test_receiver_can_check_who_sent_it(receiver: Receiver) -> None:
    send(receiver.url)

    ((path, headers, body),) = receiver.got
    assert (path, body, headers["x-prominence-delivery"]) == ("/hook?a=b", b'{"a": 1}', "7.0")
    signed = headers["x-prominence-timestamp"].encode() + b"." + body
    expected = hmac.new(KEY, signed, hashlib.sha256).hexdigest()
    assert headers["x-prominence-signature"] == f"sha256={expected}"


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "172.16.5.5", "169.254.169.254"),
        *("0.0.0.0", "100.64.0.1", "224.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]"),  # noqa: S104 an address to refuse
        *("[fd00::1]", "[2002:7f00:1::]", "2130706433", "127.1", "[::ffff:169.254.169.254]"),
    ],
)
def test_addresses_that_are_not_public_are_refused(receiver: Receiver, host: str) -> None:
    with pytest.raises(NotDelivered) as caught:
        send(receiver.url.replace("127.0.0.1", host), allow_private=False)

    assert caught.value.final
    assert not receiver.got


@pytest.mark.parametrize(
    ("answer", "final"), [(302, False), (404, False), (500, False), (410, True)]
)
def test_other_answers_are_failures_and_no_redirect_is_followed(
    receiver: Receiver, answer: int, final: bool
) -> None:
    receiver.answers = [answer]

    with pytest.raises(NotDelivered) as caught:
        send(receiver.url)

    assert (str(caught.value), caught.value.final) == (f"answer {answer}", final)
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "https://127.0.0.1:1/", "http://no.invalid/"]
)
def test_nobody_there_is_a_failure_that_may_pass(url: str) -> None:
    with pytest.raises(NotDelivered) as caught:
        send(url)

    assert not caught.value.final
