"""API keys: who may use the endpoint, and how often.

A key file has one line per key, written by `raystill key NAME`. A `#` starts a comment:

    shop sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 600    # requests per minute

A key is 32 random bytes as text. So its plain SHA-256 is safe to store: nobody can try 2^256 keys, and slow hashes are for passwords that
people choose. An environment variable holds the keys themselves: `NAME=KEY,NAME=KEY`.

A change of the file takes effect within about a second, without a restart. A removed line revokes its key. A file that is invalid, missing
or unreadable changes nothing and is logged once, so that a file that is only half written locks nobody out. An EMPTY file revokes all keys.
If you edit the file by hand, write a new file and rename it: a file that is cut between two lines looks complete.

Limits count the last 60 seconds by key name (key_limits.py). Counts survive a change of the file. A key with a new limit starts a new
minute.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipelines.config.serving import KeysConfig
from pipelines.errors import UserError
from serving.api.errors import ApiError
from serving.api.key_limits import KeyLimits, LimitCounter, Unit

MAX_FILE_BYTES = 1 << 20
NAME_RULE = "a name has 1 to 63 letters, digits, `.`, `_` and `-`, and starts with a letter or a digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_LIMIT = re.compile(r"[1-9][0-9]{0,6}")
_KEY = re.compile(r"[!-~]{1,512}")
"""Anything else in a header is refused without being hashed."""
_RELOAD_EVERY_S = 1.0
_REMEDY = "Send the key in the header `Authorization: Bearer KEY`"
_Stamp = tuple[int, int, int]
"""Time of change, size and inode of a file."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """A stored key."""

    name: str
    digest: bytes
    """SHA-256 of the key."""
    origin: str
    """For messages: `keys.txt line 3`."""
    requests_per_minute: int | None = None
    """None: the limit of the config."""


def new_key() -> str:
    """A random key."""
    return f"rs-{secrets.token_urlsafe(32)}"


def key_line(name: str, key: str, requests_per_minute: int | None = None) -> str:
    """The line of a key file. Raises UserError for an invalid name."""
    if not _NAME.fullmatch(name):
        raise UserError(f"key name {name!r}", NAME_RULE, "Choose another name.")
    limit = [] if requests_per_minute is None else [str(requests_per_minute)]
    return " ".join([name, f"sha256:{_digest(key).hex()}", *limit])


def parse_keys(content: bytes, file: str) -> list[Key]:
    """The keys of a key file. Raises UserError with the number of an invalid line, never with its text."""
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"key file {file}", f"it is larger than {MAX_FILE_BYTES:,} bytes", "Remove some keys.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"key file {file}", "it is not UTF-8", "Save it as UTF-8.") from None
    keys = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.partition("#")[0].split()
        if fields:
            keys.append(_parse_line(fields, f"{file} line {number}"))
    return distinct(keys)


def _parse_line(fields: list[str], origin: str) -> Key:
    name, digest, limit, *more = (*fields, "", "")
    stored = _HASH.fullmatch(digest)
    if not _NAME.fullmatch(name):
        rule = NAME_RULE
    elif not stored:
        rule = "the name must be followed by `sha256:` and 64 hexadecimal digits"
    elif (limit and not _LIMIT.fullmatch(limit)) or any(more):
        rule = "the hash may be followed only by a number of requests per minute, from 1 to 9999999"
    else:
        return Key(name, bytes.fromhex(stored[1]), origin, int(limit) if limit else None)
    raise UserError(origin, rule, "Make the line with `raystill key NAME`.")


def parse_pairs(text: str, variable: str) -> list[Key]:
    """The keys of a variable. Raises UserError with the number of an invalid pair, never with its text."""
    keys = []
    for number, pair in enumerate(text.split(","), 1):
        name, _, key = pair.strip().partition("=")
        origin = f"environment variable {variable} pair {number}"
        if not (_NAME.fullmatch(name) and _KEY.fullmatch(key)):
            rule = (
                f"it must be NAME=KEY; {NAME_RULE}, and a key has 1 to 512 ASCII characters without spaces and commas"
            )
            raise UserError(origin, rule, "Separate pairs by commas.")
        keys.append(Key(name, _digest(key), origin))
    return distinct(keys)


def distinct(keys: Iterable[Key]) -> list[Key]:
    """The keys. Raises UserError if two have the same name or the same key."""
    seen: dict[str | bytes, Key] = {}
    distinct_keys = list(keys)
    for key in distinct_keys:
        for kind, value in (("name", key.name), ("key", key.digest)):
            if other := seen.get(value):
                raise UserError(key.origin, f"it has the same {kind} as {other.origin}", "Remove one of them.")
            seen[value] = key
    return distinct_keys


class KeyRing:
    """The valid keys, and how often each was used in the last minute."""

    def __init__(
        self, config: KeysConfig, limits: KeyLimits | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            limits: counts uses. None: in this process.

        Raises:
            UserError: the file or the variable is missing or invalid.
        """
        self._config, self._clock = config, clock
        self._limits = LimitCounter() if limits is None else limits
        self._from_variable = [] if config.variable is None else _read_variable(config.variable)
        self._keys = _by_digest(self._from_variable)
        self._stamp: _Stamp | None = None
        self._logged_problem = ""
        self._reload_at = clock() + _RELOAD_EVERY_S
        if config.file is not None:
            self._stamp, self._keys = self._read(config.file)

    @property
    def open(self) -> bool:
        """True if no keys are configured."""
        return self._config.file is None and self._config.variable is None

    async def check(self, authorization: str | None) -> str | None:
        """The name of the key in an `Authorization` header, whose use is counted; None if the endpoint is open.

        Raises:
            ApiError: 401 `missing_key` or `invalid_key`; 429 `rate_limited` if the key's limit is reached.
        """
        if self.open:
            return None
        self._reload()
        scheme, _, presented = (authorization or "").partition(" ")
        presented = presented.strip(" ")
        if scheme.lower() != "bearer" or not presented:
            raise ApiError(401, "missing_key", f"this endpoint needs a key. {_REMEDY}")
        key = self._find(presented)
        if key is None:
            raise ApiError(401, "invalid_key", f"this key is unknown or revoked. {_REMEDY}, or ask for a new one")
        limit = key.requests_per_minute or self._config.requests_per_minute
        await self._count("requests", key.name, limit, 1)
        return key.name

    def _find(self, presented: str) -> Key | None:
        # By digest: the time that this takes shows nothing of a key that hashes of guesses would not show.
        return self._keys.get(_digest(presented)) if _KEY.fullmatch(presented) else None

    async def admit(self, name: str | None, inputs: int) -> None:
        """Count the inputs of a request. Raises ApiError 429 `rate_limited` if the key's inputs or tokens are used up."""
        if name is not None:
            await self._count("tokens", name, self._config.tokens_per_minute, 0)
            # A request with more inputs than the limit takes a whole minute.
            await self._count("inputs", name, self._config.inputs_per_minute, inputs)

    async def spend(self, name: str | None, tokens: int) -> None:
        """Count the tokens of an answer, read and generated."""
        if name is not None and tokens and (limit := self._config.tokens_per_minute):
            await self._limits.spend("tokens", name, limit, tokens)

    async def _count(self, unit: Unit, name: str, limit: int | None, cost: int) -> None:
        if limit is None:
            return
        seconds = await self._limits.count(unit, name, limit, cost)
        if seconds is not None:
            message = f"key {name} allows {limit:,} {unit} per minute; try again in {seconds} s"
            raise ApiError(429, "rate_limited", message, retry_after_s=seconds)

    def _reload(self) -> None:
        """Read the file again if it has changed."""
        file, now = self._config.file, self._clock()
        if file is None or now < self._reload_at:
            return
        self._reload_at = now + _RELOAD_EVERY_S
        try:
            if _stamp(file) != self._stamp:
                self._stamp, self._keys = self._read(file)
            self._logged_problem = ""
        except UserError as error:
            # The old stamp stays, so that the next reload reads the file again: a repair may not change its stamp.
            if str(error) != self._logged_problem:
                self._logged_problem = str(error)
                _logger.error("%s The keys from before stay valid.", error)

    def _read(self, file: str) -> tuple[_Stamp, dict[bytes, Key]]:
        # The stamp first: a change during the read then shows at the next reload.
        stamp = _stamp(file)
        try:
            with open(file, "rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _unreadable(file, str(error.strerror)) from error
        return stamp, _by_digest(distinct([*self._from_variable, *parse_keys(content, file)]))


def _stamp(file: str) -> _Stamp:
    """Differs after the file is written or replaced. Raises UserError if it is missing."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise _unreadable(file, str(error.strerror)) from error
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would block the endpoint
        raise _unreadable(file, "not a regular file")
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unreadable(file: str, reason: str) -> UserError:
    remedy = f"Correct serving.keys.file, or make a key: `raystill key NAME --file {file}`."
    return UserError(f"key file {file}", f"it cannot be read ({reason})", remedy)


def _read_variable(variable: str) -> list[Key]:
    text = os.environ.get(variable, "")
    if not text.strip():
        rule = "serving.keys.variable names it, and it is empty or not set"
        raise UserError(f"environment variable {variable}", rule, "Set it to NAME=KEY,NAME=KEY for the ingress.")
    return parse_pairs(text, variable)


def _by_digest(keys: Iterable[Key]) -> dict[bytes, Key]:
    return {key.digest: key for key in keys}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("ascii")).digest()
