"""Secrets in a job document: `env: {"X": {"secret": "…"}}` and `imagePullCredential` (S39).

Owns how they are checked, how they are stored (sealed, inside of the stored form), how they are shown (`***`),
and what of them a node gets. No text of this module ever repeats a secret.

    secret variable      4..16384 characters: fewer could not be masked in output without spoiling it
    credential           username 1..256 characters without ":", token 1..16384 (as long as a key file)
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator
from pydantic_core import PydanticCustomError

from prominence.seals import reseal, seal, unseal
from worker.protocol import TaskSecrets

MASK = "***"
MINIMUM_SECRET = 4
MAXIMUM_TEXT = 65_536
MAXIMUM_SECRET = 16_384
MAXIMUM_USERNAME = 256
MAXIMUM_TOKEN = 16_384
CREDENTIAL = "imagePullCredential"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret text; repr hides it."""

    value: str = field(repr=False)


def variable_value(value: object) -> str | Secret:
    """A text as it is, a number as the text that JSON shows for it, or {"secret": text}."""
    if isinstance(value, dict) and "secret" in value:
        return _secret_variable(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str):
        shown = "an object" if isinstance(value, dict) else json.dumps(value)
        shown = "a list" if isinstance(value, list) else shown
        raise _reject(
            "type", f"the value of an environment variable must be a text or a number, not {shown}"
        )
    if "\0" in value or len(value) > MAXIMUM_TEXT:
        raise _reject("text", f"a text has no NUL and at most {MAXIMUM_TEXT} characters")
    return value


def _secret_variable(value: Mapping[str, object]) -> Secret:
    text = value["secret"]
    if len(value) > 1 or not isinstance(text, str):
        raise _reject("secret", 'a secret variable is {"secret": "text"} and nothing else')
    if "\0" in text or not MINIMUM_SECRET <= len(text) <= MAXIMUM_SECRET:
        limits = f"{MINIMUM_SECRET} to {MAXIMUM_SECRET} characters and no NUL"
        raise _reject("secret", f"a secret variable has {limits}")
    return Secret(text)


def _username(value: object) -> Secret:
    good = isinstance(value, str) and 1 <= len(value) <= MAXIMUM_USERNAME
    if not good or ":" in str(value) or _CONTROL.search(str(value)) or value == MASK:
        raise _reject(
            "credential",
            f"username must be a text of 1 to {MAXIMUM_USERNAME} characters without control"
            ' characters and ":"',
        )
    return Secret(str(value))


def _token(value: object) -> Secret:
    if not isinstance(value, str) or not 1 <= len(value) <= MAXIMUM_TOKEN or "\0" in value:
        raise _reject("credential", f"token must be a text of 1 to {MAXIMUM_TOKEN} characters")
    if value == MASK:
        raise _reject("credential", f'"{MASK}" is how a token is shown, not what it is')
    return Secret(value)


class PullCredential(BaseModel):
    """A registry login (S39)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    username: Annotated[Secret, PlainValidator(_username)]
    token: Annotated[Secret, PlainValidator(_token)]


def some_credential(value: object) -> object:
    """Empty stands for none: clients send it so."""
    if value is None or (isinstance(value, dict) and not any(value.values())):
        return None
    if not isinstance(value, dict):
        raise _reject("type", f'"{CREDENTIAL}" must be a JSON object with username and token')
    return value


VariableValue = Annotated[str | Secret, PlainValidator(variable_value)]
Credential = Annotated[PullCredential | None, BeforeValidator(some_credential)]


def sealed_env(env: Mapping[str, str | Secret]) -> dict[str, Any]:
    """Variables in the stored form."""
    return {
        name: {"secret": seal(value.value)} if isinstance(value, Secret) else value
        for name, value in env.items()
    }


def sealed_credential(credential: PullCredential) -> dict[str, str]:
    """A credential in the stored form."""
    return {
        "username": seal(credential.username.value),
        "token": seal(credential.token.value),
    }


def plain_env(stored: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a stored task that are no secrets."""
    env = stored.get("env", {})
    return {name: value for name, value in env.items() if isinstance(value, str)}


def task_secrets(stored: Mapping[str, Any]) -> tuple[TaskSecrets, ...]:
    """What the node that runs a stored job gets: one for each task, () when there are none. Raises SealBroken."""
    opened = tuple(_opened(task) for task in stored["tasks"])
    return opened if any(one != TaskSecrets() for one in opened) else ()


def shown_task(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored task as it may be seen: secrets are `***`."""
    shown = dict(stored)
    if any(isinstance(value, dict) for value in stored.get("env", {}).values()):
        shown["env"] = {
            name: {"secret": MASK} if isinstance(value, dict) else value
            for name, value in stored["env"].items()
        }
    if CREDENTIAL in stored:
        shown[CREDENTIAL] = dict.fromkeys(stored[CREDENTIAL], MASK)
    return shown


def resealed(stored: Mapping[str, Any]) -> dict[str, Any] | None:
    """A stored form with its secrets sealed by the first key; None when it has none. Raises SealBroken."""
    changed: dict[str, Any] = json.loads(json.dumps(stored))
    holders = [place for task in changed["tasks"] for place in _seals(task)]
    holders += [(item, "secret") for item in changed.get("notifications", ()) if "secret" in item]
    for holder, key in holders:
        holder[key] = reseal(holder[key])
    return changed if holders else None


def _opened(task: Mapping[str, Any]) -> TaskSecrets:
    env = {
        name: unseal(value["secret"])
        for name, value in task.get("env", {}).items()
        if isinstance(value, dict)
    }
    login = {key: unseal(value) for key, value in task.get(CREDENTIAL, {}).items()}
    return TaskSecrets(env=env, **login)


def _seals(task: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], str]]:
    """Where the sealed texts of a stored task are."""
    for value in task.get("env", {}).values():
        if isinstance(value, dict):
            yield value, "secret"
    for key in task.get(CREDENTIAL, {}):
        yield task[CREDENTIAL], key


def _reject(code: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(code, "{text}", {"text": message})
