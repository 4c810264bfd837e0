"""Key rings of tests: on a clock of their own, and what they accept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.serving import KeysConfig
from serving.api.api_keys import KeyRing
from serving.api.errors import ApiError


class Clock:
    """A clock that moves only when it is set."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ring(file: Path | None = None, clock: Clock | None = None, share: int = 1, **config: Any) -> KeyRing:
    config |= {"file": str(file)} if file else {}
    return KeyRing(KeysConfig(**config), share=share, clock=clock or Clock())


def names(keys: KeyRing, *presented: str) -> list[str | None]:
    """The name under which each key is accepted; None for an invalid key, otherwise the error's code."""
    found: list[str | None] = []
    for key in presented:
        try:
            found.append(asyncio.run(keys.check(f"Bearer {key}")))
        except ApiError as error:
            found.append(None if error.code == "invalid_key" else error.code)
    return found


def refusal(keys: KeyRing, authorization: str | None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asyncio.run(keys.check(authorization))
    return caught.value


def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def accepted(keys: KeyRing, key: str, times: int) -> int:
    """How many requests of a key are within its limit."""

    async def check_all() -> list[str]:
        refused = []
        for _ in range(times):
            try:
                await keys.check(f"Bearer {key}")
            except ApiError as error:
                refused.append(error.code)
        return refused

    refused = asyncio.run(check_all())
    assert set(refused) <= {"rate_limited"}
    return times - len(refused)
