"""What a failed request to an OpenAI-compatible endpoint means: try again, refuse the row, or give up altogether.

    connection error, timeout, 408, 409, 429, 5xx, unreadable answer      heals: try again, not before Retry-After
    400, 413, 422 and every other 4xx                                     refused: this row's fault
    401, 402, 403, 404, 405, and 429 for want of credit                   unusable: key, account, URL and model are the run's, not the row's

The texts of endpoints quote keys; what leaves this module is scrubbed of them.
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

from pipelines.label.teachers.secret import Secret

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 60.0
MAX_RETRY_AFTER_S = 600.0
"""An endpoint that asks for a longer pause has run out of a quota: a later run goes on, this one need not wait for it."""

_HEALING = (408, 409, 429)
_UNUSABLE = (401, 402, 403, 404, 405)
_OVERLOAD = (429, 503)
_TOO_LONG = re.compile(
    r"context_length_exceeded|(context|model) (length|window)|maximum (number of )?(input |prompt )?tokens|(prompt|input) is too long|"
    r"longer than the maximum",
    re.IGNORECASE,
)
_LONGEST_DETAIL = 500


@dataclass(frozen=True)
class Failure:
    """One failed request."""

    kind: Literal["heals", "refused", "unusable"]
    detail: str
    """For the user, without the key."""
    reason: Literal["engine_error", "too_long"] = "engine_error"
    overloaded: bool = False
    """The endpoint has too many requests."""
    retry_after_s: float | None = None
    """What it asked for."""
    may_have_cost: bool = False
    """The request may have been worked on: no answer of the endpoint's came that says otherwise."""
    parameter: str | None = None
    """The request's field that the endpoint takes offence at, where it says so."""


def failure_of(error: Exception, key: Secret) -> Failure:
    """What an exception of the client means. One that is not the endpoint's or the network's doing is raised again."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _refusal(error, key)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Failure("heals", "no answer within remote.timeout_s", may_have_cost=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        connected = not type(cause).__name__.startswith("Connect")  # ConnectError, ConnectTimeout: nothing was sent
        detail = key.scrub(f"{type(cause).__name__}: {cause}" if cause else str(error))
        return Failure("heals", _short(detail), may_have_cost=connected)
    if isinstance(error, ValueError | openai.APIResponseValidationError):
        return unreadable(f"{type(error).__name__}: {error}", key)
    raise error


def unreadable(problem: str, key: Secret) -> Failure:
    """An answer that came and cannot be used: cut off, not JSON, without choices."""
    return Failure("heals", _short(key.scrub(f"unreadable answer: {problem}")), may_have_cost=True)


def wait_s(attempt: int, retry_after_s: float | None, chance: random.Random) -> float:
    """Seconds before attempt `attempt` + 1: exponential with full jitter (anything from 0 to the ceiling), on top of Retry-After."""
    ceiling = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt - 1, 30))
    return (retry_after_s or 0.0) + chance.uniform(0.0, ceiling)


def retry_after_s(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Seconds that a response asks to wait, None where it does not. RFC 9110 10.2.3, and `retry-after-ms` of Azure and OpenAI.

    A date counts from the response's own `Date`, so that a wrong clock here does no harm; `now_s` (POSIX) where it has none.
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
    return max(0.0, until - (sent if sent is not None else time.time() if now_s is None else now_s))


def _refusal(error: Any, key: Secret) -> Failure:
    """`error`: an openai.APIStatusError."""
    status, body = int(error.status_code), error.body
    fields = body if isinstance(body, Mapping) else {}
    message = fields.get("message") or fields.get("detail") or error.message
    detail = _short(key.scrub(f"HTTP {status}: {message}"))
    pause = retry_after_s(error.response.headers)
    if status in _HEALING or status >= 500:
        if "insufficient_quota" in (error.code, error.type):
            return Failure("unusable", detail)
        if pause is not None and pause > MAX_RETRY_AFTER_S:
            return Failure(
                "unusable", f"{detail} (it asks to come back in {pause:,.0f} s)", overloaded=status in _OVERLOAD
            )
        return Failure("heals", detail, overloaded=status in _OVERLOAD, retry_after_s=pause)
    if status in _UNUSABLE:
        return Failure("unusable", detail)
    too_long = status == 413 or _TOO_LONG.search(f"{error.code} {message}")
    return Failure("refused", detail, "too_long" if too_long else "engine_error", parameter=error.param)


def _posix(date: str | None) -> float | None:
    """An HTTP date as POSIX seconds, None where it is none."""
    if not date:
        return None
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 3] + "..."
