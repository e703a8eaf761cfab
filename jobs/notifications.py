"""`notifications` of a job document (U20): who is told when a job has ended, and by which way.

Owns their fields, their stored form (secrets sealed) and how they are shown (`***`). Pure but for the seals.

    {"event": "jobFinished", "type": "email"}                       to the address of the job's user
    {"event": "jobFinished", "type": "webhook", "url": U, "secret": S}   POST, signed with S of 16..256 characters
    at most 10 of them
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from jobs import fields
from jobs.secret_fields import MASK, Secret
from prominence.seals import seal, unseal

EMAIL, WEBHOOK = "email", "webhook"
JOB_FINISHED = "jobFinished"
MAXIMUM_NOTIFICATIONS = 10
MAXIMUM_URL = 2048


def _url(value: object) -> str:
    text = value if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        good = good and not (parts.username or parts.password or parts.fragment)
    except ValueError:
        good = False
    if not good or len(text) > MAXIMUM_URL or not text.isascii() or not text.isprintable():
        raise fields.reject(
            "url",
            f"the url of a webhook must be http(s)://host/path of at most {MAXIMUM_URL} ASCII characters,"
            " without a user name or fragment",
        )
    return text


def _secret(value: object) -> Secret:
    if not isinstance(value, str) or not 16 <= len(value) <= 256:
        raise fields.reject(
            "secret", "the secret of a webhook must be a text of 16 to 256 characters"
        )
    return Secret(value)


def few_notifications(value: object) -> object:
    if isinstance(value, list) and len(value) > MAXIMUM_NOTIFICATIONS:
        raise fields.reject("tooMany", f"at most {MAXIMUM_NOTIFICATIONS} notifications are allowed")
    return value


class Notification(BaseModel):
    """One message after the job's end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: Literal["jobFinished"]
    type: Literal["email", "webhook"]
    url: Annotated[str, PlainValidator(_url, json_schema_input_type=str)] | None = None
    secret: Annotated[Secret, PlainValidator(_secret, json_schema_input_type=str)] | None = Field(
        default=None, repr=False
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> "Notification":
        given = self.url is not None, self.secret is not None
        if given != (self.type == WEBHOOK,) * 2:
            raise fields.reject(
                "notification",
                'a notification has "url" and "secret" if it is a webhook, else neither',
            )
        return self


Notifications = Annotated[tuple[Notification, ...], BeforeValidator(few_notifications)]


def stored_notifications(notifications: Sequence[Notification]) -> list[dict[str, str]]:
    """As they are kept in `Job.spec`: secrets sealed."""
    return [
        {"event": item.event, "type": item.type}
        | ({"url": item.url, "secret": seal(item.secret.value)} if item.url and item.secret else {})
        for item in notifications
    ]


def shown_notifications(stored: Mapping[str, Any]) -> list[dict[str, str]]:
    """As they may be seen."""
    return [
        {key: MASK if key == "secret" else value for key, value in item.items()}
        for item in stored.get("notifications", ())
    ]


def signing_key(stored: Mapping[str, str]) -> bytes:
    """The secret of a stored webhook. Raises SealBroken."""
    return unseal(stored["secret"]).encode()


def address_of(email: str, username: str) -> str:
    """The address of a user: as stored, or the user name if it is one; "" if there is none."""
    return email or (username if "@" in username.strip("@") else "")
