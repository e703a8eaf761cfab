"""Secrets in job documents: checked, sealed, shown as `***`, opened for the node alone (S39, S110; X10)."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import override_settings

from jobs.secret_fields import resealed, shown_task, task_secrets
from jobs.spec import parse_job, run_spec, stored_form
from prominence.config import ConfigError, load_config
from prominence.errors import InvalidDocument
from prominence.seals import SealBroken
from worker.protocol import TaskSecrets

SECRET, TOKEN = "only-for-the-node", "registry-t0ken"
CREDENTIAL = "/tasks/0/imagePullCredential"


def task(**changes: Any) -> dict[str, Any]:
    return {"tasks": [{"image": "busybox"} | changes]}


def login(**parts: Any) -> dict[str, Any]:
    return task(imagePullCredential=parts)


def stored() -> dict[str, Any]:
    document = task(
        env={"KEY": {"secret": SECRET}, "PLAIN": "seen"},
        imagePullCredential={"username": "alice", "token": TOKEN},
    )
    return stored_form(parse_job(document))


def keys(*values: str) -> Any:
    return load_config(
        {"PROMINENCE_DATA": "/none", "PROMINENCE_SECRET_KEY": "x"}
        | {"PROMINENCE_SECRETS_KEYS": ",".join(values)}
    )


def test_secrets_are_sealed_in_the_stored_form_s39() -> None:
    text = json.dumps(stored())
    assert not [word for word in (SECRET, TOKEN, "alice") if word in text]
    assert "seen" in text


def test_secrets_are_shown_as_stars_s39() -> None:
    shown = shown_task(stored()["tasks"][0])
    assert shown["env"] == {"KEY": {"secret": "***"}, "PLAIN": "seen"}
    assert shown["imagePullCredential"] == {"username": "***", "token": "***"}


def test_run_spec_has_no_secrets() -> None:
    assert run_spec(stored()).tasks[0].env == {"PLAIN": "seen"}


def test_node_gets_what_was_given() -> None:
    expected = TaskSecrets(env={"KEY": SECRET}, username="alice", token=TOKEN)
    assert task_secrets(stored()) == (expected,)
    assert SECRET not in repr(expected)
    assert TOKEN not in repr(expected)


def test_task_without_secrets_costs_nothing() -> None:
    plain = stored_form(parse_job(task(env={"A": "b"})))
    assert task_secrets(plain) == ()
    assert resealed(plain) is None


def test_old_key_opens_until_it_is_taken_away() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    with override_settings(CONFIG=keys(old)):
        before = stored()
    with override_settings(CONFIG=keys(new, old)):
        assert task_secrets(before)[0].token == TOKEN
        after = resealed(before)
    assert after is not None
    with override_settings(CONFIG=keys(new)):
        assert task_secrets(after)[0].token == TOKEN
        with pytest.raises(SealBroken):
            task_secrets(before)


@pytest.mark.parametrize("bad", ["short", "not base64 !", "AAAA" * 11])
def test_bad_key_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(ConfigError, match="SECRETS_KEYS") as caught:
        keys(bad)
    assert bad not in str(caught.value)


def test_key_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    first, second = (load_config({"PROMINENCE_DATA": str(tmp_path)}).secrets_keys for _ in "ab")
    assert first == second
    assert (tmp_path / "secrets-key").stat().st_mode & 0o077 == 0


# document, pointer, code, a part of the message
BAD = [
    (task(imagePullCredential="u:t"), CREDENTIAL, "type", "must be a JSON object"),
    (login(username="u"), f"{CREDENTIAL}/token", "missing", '"token" is required'),
    (login(token="t"), f"{CREDENTIAL}/username", "missing", '"username" is required'),
    (login(username="u:v", token="t"), f"{CREDENTIAL}/username", "credential", 'and ":"'),
    (login(username="u\n", token="t"), f"{CREDENTIAL}/username", "credential", "control"),
    (login(username=["u"], token="t"), f"{CREDENTIAL}/username", "credential", "a text"),
    (login(username="u", token=1234567), f"{CREDENTIAL}/token", "credential", "a text"),
    (login(username="u", token="***"), f"{CREDENTIAL}/token", "credential", "how a token is shown"),
    (login(username="u", token="t" * 16385), f"{CREDENTIAL}/token", "credential", "16384"),
    (login(username="u", token="t", email="x"), f"{CREDENTIAL}/email", "unknown", "invalid item"),
    (task(env={"A": {"secret": 5}}), "/tasks/0/env/A", "secret", "nothing else"),
    (task(env={"A": {"secret": "abc"}}), "/tasks/0/env/A", "secret", "4 to 16384"),
    (task(env={"A": {"secret": "a\0bcd"}}), "/tasks/0/env/A", "secret", "no NUL"),
    (task(env={"A": {"secret": "x" * 16385}}), "/tasks/0/env/A", "secret", "4 to 16384"),
    (task(env={"A": {"secret": "abcd", "b": 1}}), "/tasks/0/env/A", "secret", "nothing else"),
    (task(env={"A": {"secret": "***"}}), "/tasks/0/env/A", "secret", "4 to 16384"),
    (task(env={"A": {"secrets": "abcd"}}), "/tasks/0/env/A", "type", "not an object"),
]


@pytest.mark.parametrize(("document", "pointer", "code", "text"), BAD)
def test_bad_secret_is_refused_without_repeating_it(
    document: dict[str, Any], pointer: str, code: str, text: str
) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_job(document)
    (problem,) = caught.value.problems
    assert (problem["pointer"], problem["code"]) == (pointer, code)
    assert text in problem["message"]
    assert "1234567" not in problem["message"]
