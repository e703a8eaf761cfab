"""Sealing what users trust us with, so that a copy of the database alone tells nobody anything.

Owns the cipher (Fernet: AES-128-CBC with HMAC-SHA256) and the choice of keys. The keys live outside of the
database (`PROMINENCE_SECRETS_KEYS`): the first one seals, any of them opens, so keys can be changed at leisure.
"""

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class SealBroken(Exception):
    """None of the present keys opens this: a key was taken away, or the text was changed."""


def seal(text: str) -> str:
    """A sealed form that JSON and every database can hold; differs at each call."""
    return _box(settings.CONFIG.secrets_keys).encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """What was sealed. Raises SealBroken."""
    try:
        return _box(settings.CONFIG.secrets_keys).decrypt(sealed).decode()
    except InvalidToken as error:
        raise SealBroken("no present key opens a stored secret") from error


def reseal(sealed: str) -> str:
    """The same secret, sealed with the first key. Raises SealBroken."""
    try:
        return _box(settings.CONFIG.secrets_keys).rotate(sealed).decode()
    except InvalidToken as error:
        raise SealBroken("no present key opens a stored secret") from error


@lru_cache(maxsize=4)
def _box(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
