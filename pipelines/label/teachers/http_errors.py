"""What a failed request to an OpenAI-compatible endpoint means: retry, refuse the row, or stop.

    connection error, timeout, 408, 409, 429, 5xx, unreadable answer      transient: retry, not before Retry-After
    400, 413, 422 and every other 4xx                                     refused: the fault is in this row
    401, 402, 403, 404, 405, an unknown model, 429 for lack of credit     unusable: the fault is in key, account, URL or model

Endpoints quote keys in their messages; the texts of a Failure never have the key.
"""

from __future__ import annotations

import email.utils
import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SecretStr

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 60.0
MAX_RETRY_AFTER_S = 600.0
"""An endpoint that asks for a longer pause has run out of a quota. The run stops, and a later one resumes."""

_TRANSIENT = (408, 409, 429)
_UNUSABLE = (401, 402, 403, 404, 405)
_OVERLOAD = (429, 503)
_TOO_LONG = re.compile(
    r"context_length_exceeded|(context|model) (length|window)|maximum (number of )?(input |prompt )?tokens|(prompt|input) is too long|"
    r"longer than the maximum",
    re.IGNORECASE,
)
_MAX_DETAIL_CHARACTERS = 500
_MAX_QUOTA_PAUSE_S = 60.0
_DURATION = re.compile(r"(?:[0-9]{1,6}(?:\.[0-9]{1,6})?(?:ms|[dhms]))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|[dhms])")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True)
class Failure:
    """One failed request."""

    kind: Literal["transient", "refused", "unusable"]
    detail: str
    """For the user, without the key."""
    reason: Literal["engine_error", "too_long"] = "engine_error"
    """Of the reject, if the row is refused."""
    overloaded: bool = False
    """The endpoint has too many requests."""
    retry_after_s: float | None = None
    outage: bool = False
    """The endpoint does not work: no connection, no answer in time, a server error. A rate limit is none."""
    may_have_cost: bool = False
    """The endpoint may have worked on the request: nothing that it sent says otherwise."""
    parameter: str | None = None
    """The field of the request that the endpoint refuses, if it names one."""


def failure_of(error: Exception, key: SecretStr) -> Failure:
    """The failure behind an exception of the client. Raises the exception if endpoint and network are not its cause."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _status_failure(error, key)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Failure("transient", "no answer within remote.timeout_s", outage=True, may_have_cost=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        connected = not type(cause).__name__.startswith("Connect")  # ConnectError, ConnectTimeout: nothing was sent
        detail = _detail(f"{type(cause).__name__}: {cause}" if cause else str(error), key)
        return Failure("transient", detail, outage=True, may_have_cost=connected)
    if isinstance(error, ValueError | openai.APIResponseValidationError):
        return unreadable(f"{type(error).__name__}: {error}", key)
    raise error


def unreadable(problem: str, key: SecretStr) -> Failure:
    """The failure of an answer that came but cannot be used: cut off, not JSON, without choices."""
    return Failure("transient", _detail(f"unreadable answer: {problem}", key), outage=True, may_have_cost=True)


def wait_s(attempt: int, retry_after_s: float | None, chance: random.Random) -> float:
    """Seconds between `attempt` and the next one: exponential backoff with full jitter, on top of Retry-After."""
    ceiling = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt - 1, 30))
    return (retry_after_s or 0.0) + chance.uniform(0.0, ceiling)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait, None if it does not ask.

    Source: RFC 9110 10.2.3, and `retry-after-ms` of Azure and OpenAI. A date is relative to the response's own `Date`, so a wrong clock
    here does no harm.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    until = _posix(headers.get("retry-after"))
    if until is None:
        return None
    sent = _posix(headers.get("date"))
    return max(0.0, until - (time.time() if sent is None else sent))


def quota_pause_s(headers: Mapping[str, str], tokens: int) -> float:
    """Seconds until a quota per minute has room for another request; 0 if it has, or if the endpoint names none.

    Source: OpenAI's `x-ratelimit-remaining-requests`, `-remaining-tokens`, `-reset-requests` and `-reset-tokens` (`1s`, `6m0s`, `20ms`).

    Args:
        tokens: that the next request can use.
    """
    pause = 0.0
    for quota, needed in (("requests", 1), ("tokens", tokens)):
        try:
            remaining = int(headers.get(f"x-ratelimit-remaining-{quota}", ""))
        except ValueError:
            continue
        if remaining < needed:
            pause = max(pause, _duration_s(headers.get(f"x-ratelimit-reset-{quota}", "")))
    return min(pause, _MAX_QUOTA_PAUSE_S)


def _duration_s(text: str) -> float:
    """`6m0s` -> 360. 0 for anything else."""
    if not _DURATION.fullmatch(text):
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def _status_failure(error: Any, key: SecretStr) -> Failure:
    """`error`: an openai.APIStatusError."""
    status, body = int(error.status_code), error.body
    fields = body if isinstance(body, Mapping) else {}
    message = fields.get("message") or fields.get("detail") or error.message
    detail = _detail(f"HTTP {status}: {message}", key)
    overloaded = status in _OVERLOAD
    if status in _TRANSIENT or status >= 500:
        if "insufficient_quota" in (error.code, error.type):
            return Failure("unusable", detail)
        pause = retry_after_s(error.response.headers)
        if pause is not None and pause > MAX_RETRY_AFTER_S:
            return Failure("unusable", f"{detail} (it asks to come back in {pause:,.0f} s)", overloaded=overloaded)
        outage = status == 408 or status >= 500
        return Failure("transient", detail, overloaded=overloaded, retry_after_s=pause, outage=outage)
    if status in _UNUSABLE or error.param == "model" or error.code == "model_not_found":
        return Failure("unusable", detail)
    too_long = status == 413 or _TOO_LONG.search(f"{error.code} {message}")
    return Failure("refused", detail, "too_long" if too_long else "engine_error", parameter=error.param)


def _posix(date: str | None) -> float | None:
    """An HTTP date as POSIX seconds, None for anything else."""
    if not date:
        return None
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _detail(text: str, key: SecretStr) -> str:
    """The text without the key, cut at 500 characters."""
    secret = key.get_secret_value()
    text = text.replace(secret, "***") if secret else text
    return text if len(text) <= _MAX_DETAIL_CHARACTERS else text[: _MAX_DETAIL_CHARACTERS - 3] + "..."
