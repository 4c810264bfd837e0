"""The Batch API of an OpenAI-compatible endpoint: send a file of requests, look after it, read its answers.

Every call is repeated while the endpoint is out of reach, up to `remote.max_outage_s`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import TeacherUnusableError
from pipelines.label.teachers.http_errors import failure_of, wait_s
from pipelines.runtime.terminal import say

if TYPE_CHECKING:
    from openai.types import Batch as RemoteBatch

NAME_KEY = "raystill"
"""Key of the batch's name in its metadata."""
_WINDOW = "24h"
_LISTED = 100
_T = TypeVar("_T")


class BatchApi:
    """Calls from one process, one at a time."""

    def __init__(self, config: TeacherConfig, key: SecretStr) -> None:
        import openai

        self._config, self._key = config, key
        url, timeout_s = config.remote.url, config.remote.timeout_s
        self._client = openai.OpenAI(api_key=key.get_secret_value(), base_url=url, max_retries=0, timeout=timeout_s)
        self._chance = random.Random()

    def send(self, requests: Path, path: str, name: str) -> RemoteBatch:
        """Upload a file of requests and make a batch of it. `path`: of every request."""
        file = self._repeated(lambda: self._client.files.create(file=requests, purpose="batch"))
        return self._repeated(
            lambda: self._client.batches.create(
                input_file_id=file.id,
                endpoint=path,
                completion_window=_WINDOW,
                metadata={NAME_KEY: name},
            )
        )

    def find(self, name: str) -> RemoteBatch | None:
        """The batch with this name, None if it was never made. Looks at the latest hundred."""
        found = self._repeated(lambda: self._client.batches.list(limit=_LISTED)).data
        return next((one for one in found if (one.metadata or {}).get(NAME_KEY) == name), None)

    def state(self, batch_id: str) -> RemoteBatch:
        """The batch as it is now."""
        return self._repeated(lambda: self._client.batches.retrieve(batch_id))

    def lines(self, file_id: str | None) -> list[str]:
        """The lines of a file of the endpoint; none if there is no file."""
        if file_id is None:
            return []
        text = self._repeated(lambda: self._client.files.content(file_id)).text
        return [line for line in text.split("\n") if line.strip()]

    def _repeated(self, call: Callable[[], _T]) -> _T:
        import openai

        began, attempt = time.monotonic(), 0
        while True:
            try:
                return call()
            except (openai.OpenAIError, ValueError) as error:
                failure = failure_of(error, self._key)
            if failure.kind != "transient" or time.monotonic() - began > self._config.remote.max_outage_s:
                raise TeacherUnusableError(f"{self._config.remote.url}: {failure.detail}")
            attempt += 1
            pause = wait_s(attempt, failure.retry_after_s, self._chance)
            say(f"teacher: {failure.detail}; the next attempt in {pause:.0f} s")
            time.sleep(pause)
