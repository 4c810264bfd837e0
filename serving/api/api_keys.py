"""API keys: who may ask the endpoint, and how often.

A key file has a line for each key, made by `raystill key NAME`; what follows a `#` is a comment:

    shop sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 600    # requests per minute

A key is 32 random bytes in text. That is why its plain SHA-256 is enough at rest: nobody can go through 2^256 keys, and what makes
slow hashes necessary, words that people choose, is not there. A variable holds the keys themselves, `NAME=KEY,NAME=KEY`.

A change of the file counts within about a second, without a restart: a line that is removed revokes its key. A file that breaks a
rule, cannot be read or is gone changes nothing and is told in the log once, so that a half-written one locks nobody out; an EMPTY
file revokes all. Whoever writes the file by hand should rename a finished one into its place, as `raystill key` does: of a file
that is cut off between two lines, nobody can tell that lines are missing.

Limits are counted over the last 60 seconds, by the key's name, in the memory of each ingress replica: of N replicas each lets
1/N through. What was counted stays through a change of the file; a key whose limit changed begins a new minute.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from pipelines.config.serving import KeysConfig
from pipelines.errors import UserError
from serving.api.errors import ApiError

MAX_FILE_BYTES = 1 << 20
NAME_RULE = "a name has 1 to 63 letters, digits, `.`, `_` and `-`, and begins with a letter or a digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_LIMIT = re.compile(r"[1-9][0-9]{0,6}")
_KEY = re.compile(r"[!-~]{1,512}")
"""What may stand in a header as a key: whatever else is presented is no key, and is not even hashed."""
_LOOK_EVERY_S = 1.0
_HOW = "give the key in the header `Authorization: Bearer KEY`"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """A key as it is stored."""

    name: str
    digest: bytes
    """SHA-256 of the key."""
    origin: str
    """Where it stands, for messages: `keys.txt line 3`."""
    requests_per_minute: int | None = None
    """None: what the config says."""


def new_key() -> str:
    """A random key."""
    return f"rs-{secrets.token_urlsafe(32)}"


def key_line(name: str, key: str, requests_per_minute: int | None = None) -> str:
    """The key's line of a key file. Raises UserError where the name breaks its rule."""
    if not _NAME.fullmatch(name):
        raise UserError(f"key name {name!r}", NAME_RULE, "Choose such a name.")
    limit = [] if requests_per_minute is None else [str(requests_per_minute)]
    return " ".join([name, f"sha256:{_digest(key).hex()}", *limit])


def parse_keys(content: bytes, file: str) -> list[Key]:
    """The keys of a key file. Raises UserError naming the line that breaks a rule, and nothing that it holds."""
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"key file {file}", f"it is larger than {MAX_FILE_BYTES:,} bytes", "Remove keys.")
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
        rule = "after the name comes `sha256:` with 64 hexadecimal digits"
    elif (limit and not _LIMIT.fullmatch(limit)) or any(more):
        rule = "after the hash comes nothing, or a whole number of requests per minute from 1 to 9999999"
    else:
        return Key(name, bytes.fromhex(stored[1]), origin, int(limit) if limit else None)
    raise UserError(origin, rule, "`raystill key NAME` makes such lines.")


def parse_pairs(text: str, variable: str) -> list[Key]:
    """The keys of a variable. Raises UserError naming the place of the pair that breaks a rule, and nothing that it holds."""
    keys = []
    for number, pair in enumerate(text.split(","), 1):
        name, _, key = pair.strip().partition("=")
        origin = f"environment variable {variable} pair {number}"
        if not (_NAME.fullmatch(name) and _KEY.fullmatch(key)):
            rule = f"it is not NAME=KEY; {NAME_RULE}, and a key has 1 to 512 ASCII characters without spaces and commas"
            raise UserError(origin, rule, "Pairs are separated by commas.")
        keys.append(Key(name, _digest(key), origin))
    return distinct(keys)


def distinct(keys: Iterable[Key]) -> list[Key]:
    """The keys. Raises UserError where two have one name, or are one key."""
    seen: dict[str | bytes, Key] = {}
    found = list(keys)
    for key in found:
        for what, mark in (("name", key.name), ("key", key.digest)):
            if other := seen.get(mark):
                raise UserError(key.origin, f"it has the {what} of {other.origin}", "Remove one of them.")
            seen[mark] = key
    return found


class KeyRing:
    """The keys that count now, and how often each was used in the last minute."""

    def __init__(self, config: KeysConfig, *, share: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            share: among how many ingress replicas a key's requests are spread.

        Raises:
            UserError: the file or the variable is missing or breaks a rule.
        """
        self._config, self._share, self._clock = config, share, clock
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._from_variable = [] if config.variable is None else _read_variable(config.variable)
        self._keys = self._from_variable
        self._stamp: tuple[int, int, int] | None = None
        self._complaint = ""
        self._look_at = clock() + _LOOK_EVERY_S
        if config.file is not None:
            self._stamp, self._keys = self._read(config.file)

    @property
    def open(self) -> bool:
        """Whether no keys are configured, so that everyone may ask."""
        return self._config.file is None and self._config.variable is None

    async def check(self, authorization: str | None) -> str | None:
        """The name of the key in an `Authorization` header, whose use is counted; None where the endpoint is open.

        Raises:
            ApiError: 401 `missing_key` or `invalid_key`; 429 `rate_limited` where the key was used too often.
        """
        if self.open:
            return None
        self._look()
        scheme, _, presented = (authorization or "").partition(" ")
        presented = presented.strip(" ")
        if scheme.lower() != "bearer" or not presented:
            raise ApiError(401, "missing_key", f"this endpoint needs a key: {_HOW}")
        key = self._find(presented)
        if key is None:
            raise ApiError(401, "invalid_key", f"this key is unknown or revoked; {_HOW}, or ask for a new one")
        await self._count(key)
        return key.name

    def _find(self, presented: str) -> Key | None:
        if not _KEY.fullmatch(presented):
            return None
        digest, found = _digest(presented), None
        # Each one is compared, so that the time tells neither which key it is nor how near a guess came.
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    async def _count(self, key: Key) -> None:
        limit = key.requests_per_minute or self._config.requests_per_minute
        if limit is None:
            return
        item = RateLimitItemPerMinute(max(1, limit // self._share))
        if await self._limiter.hit(item, key.name):
            return
        window = await self._limiter.get_window_stats(item, key.name)
        seconds = max(1, math.ceil(window.reset_time - time.time()))
        message = f"key {key.name} may be used {limit:,} times a minute; try again in {seconds} s"
        raise ApiError(429, "rate_limited", message, retry_after_s=seconds)

    def _look(self) -> None:
        """Take the keys of the file where it has changed."""
        file, now = self._config.file, self._clock()
        if file is None or now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        try:
            if _stamp(file) != self._stamp:
                self._stamp, self._keys = self._read(file)
            self._complaint = ""
        except UserError as error:
            # The stamp stays as it was, so that the file is tried again: what was wrong may not show in its stamp.
            if str(error) != self._complaint:
                self._complaint = str(error)
                _logger.error("%s The keys that were read before stay valid.", error)

    def _read(self, file: str) -> tuple[tuple[int, int, int], list[Key]]:
        # The stamp comes first: what is written while the file is read is then seen at the next look.
        stamp = _stamp(file)
        try:
            with open(file, "rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _unreadable(file, str(error.strerror)) from error
        return stamp, distinct([*self._from_variable, *parse_keys(content, file)])


def _stamp(file: str) -> tuple[int, int, int]:
    """What differs where the file was written or replaced. Raises UserError where there is no such file."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise _unreadable(file, str(error.strerror)) from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would hold up the endpoint
        raise _unreadable(file, "not a regular file")
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unreadable(file: str, why: str) -> UserError:
    remedy = f"Correct serving.keys.file, or make a key: `raystill key NAME --file {file}`."
    return UserError(f"key file {file}", f"it cannot be read ({why})", remedy)


def _read_variable(variable: str) -> list[Key]:
    text = os.environ.get(variable, "")
    if not text.strip():
        rule = "serving.keys.variable names it, and it is empty or not set"
        raise UserError(f"environment variable {variable}", rule, "Set it to NAME=KEY,NAME=KEY for the ingress.")
    return parse_pairs(text, variable)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("ascii")).digest()
