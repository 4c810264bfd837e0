"""A teacher behind any OpenAI-compatible endpoint: `POST {url}/completions` for plain prompts, `/chat/completions` for chat.

The official client sends; its own retries are off, because three things must be known to the whole teacher and not to one request: how
many requests the endpoint takes at a time and until when it wants none (concurrency.py), what the budget has left (../budget.py), and
that the key is no good (failures.py says what each failure means).

The key comes as a Secret from the driver, through the actor's constructor. Not through `runtime_env`: with Ray 2.60 its env_vars stand in
clear text in runtime_env_agent.log and in what `list_actors` and `list_tasks` show; constructor arguments stand in neither.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.teachers.base import Generation, Prompt, PromptRefusedError, Sample, TeacherUnusableError
from pipelines.label.teachers.budget import BudgetMeter, estimate_tokens
from pipelines.label.teachers.http_errors import Failure, failure_of, unreadable, wait_s
from pipelines.label.teachers.rate_limit import AdaptiveLimit, Admission
from pipelines.label.teachers.secret import Secret
from pipelines.tasks import Task

_MAX_CONNECTIONS = 1000
"""Of the official client's pool. More requests would wait in it, while their timeout runs."""
_TOKENS_PER_MESSAGE = 8
"""What a chat template wraps around a message, for the estimate."""


def remote_key(config: TeacherConfig) -> Secret:
    """The key in the environment variable that `remote.key_variable` names. Raises UserError where it is not set or cannot be a key."""
    name = config.remote.key_variable
    key = os.environ.get(name, "").strip()
    where = f"teacher.remote.key_variable {name}"
    if not key:
        remedy = f"Export {name}; where the endpoint needs no key, any word will do."
        raise UserError(where, "this environment variable is not set", remedy)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            where, "its value cannot be a key: keys are printable ASCII without spaces", "Set it to the key alone."
        )
    return Secret(key)


def check_remote(config: TeacherConfig) -> None:
    """What can be wrong before anything is sent. Raises UserError."""
    url = config.remote.url or ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(
            f"teacher.remote.url {url}", "not an http or https URL", "Give the base URL, such as https://host/v1."
        )
    if parts.username or parts.password:
        rule = "a URL with a user or password would end in logs and manifests"
        raise UserError("teacher.remote.url", rule, "Put the key into the variable that remote.key_variable names.")
    if config.remote.max_concurrent_requests > _MAX_CONNECTIONS:
        where = f"teacher.remote.max_concurrent_requests {config.remote.max_concurrent_requests}"
        raise UserError(
            where, f"the client holds {_MAX_CONNECTIONS} connections", "Lower it, or raise teacher.replicas."
        )
    budgeted = config.budget.tokens is not None or config.budget.money is not None
    if budgeted and config.replicas.max > 1:
        rule = f"each replica counts for itself, {config.replicas.max} of them could use several times teacher.budget"
        raise UserError("teacher.replicas.max", rule, "Set it to 1; remote.max_concurrent_requests decides the load.")
    remote_key(config)


@dataclass(frozen=True)
class _Reply:
    """What one request brought: choices, and the tokens that it is charged with."""

    choices: tuple[tuple[str, str], ...]
    """(text, finish reason)"""
    prompt_tokens: int
    output_tokens: int


class OpenaiTeacher:
    """Asks an endpoint. Make it in the process that uses it; its client belongs to the event loop of the first call."""

    def __init__(
        self, config: TeacherConfig, task: Task, *, key: Secret | None = None, used: tuple[int, int] = (0, 0)
    ) -> None:
        """`key` None: read from this process' environment. `used`: (prompt, output) tokens of finished rows, for the budget."""
        self._config = config
        self._key = remote_key(config) if key is None else key
        self._stops = list(task.stops) if config.prompt == "plain" else []
        self.meter = BudgetMeter(config.budget, config.price, used)
        self.admission = Admission(AdaptiveLimit(config.remote.max_concurrent_requests))
        self._chance = random.Random()
        self._client: Any = None
        self._unusable: str | None = None
        # What this endpoint turned out to be like.
        self._choices_at_most = config.sampling.n
        self._limit_field = "max_tokens"

    async def answer(self, prompt: Prompt) -> Generation:
        """n samples; `prompt_tokens` counts the prompt as often as the endpoint charged for it.

        Raises:
            PromptRefusedError: the endpoint does not take this prompt, or every attempt failed.
            TeacherUnusableError: it takes none.
            BudgetExhaustedError: the next request could use more than is left.
        """
        n = self._config.sampling.n
        replies: list[_Reply] = []
        choices: list[tuple[str, str]] = []
        while len(choices) < n:
            each = min(self._choices_at_most, n - len(choices))
            starts = range(len(choices), n, each)
            asked = [self._ask(prompt, start, min(each, n - start)) for start in starts]
            # All are heard out before one's failure is raised: they are paid for, and no request must outlive its row.
            for reply in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(reply, BaseException):
                    raise reply
                replies.append(reply)
                choices += reply.choices
        texts = choices[:n]
        tokens = _shares(sum(r.output_tokens for r in replies), [len(text) for text, _ in texts])
        samples = (Sample(text, count, reason) for (text, reason), count in zip(texts, tokens, strict=True))
        return Generation(tuple(samples), sum(r.prompt_tokens for r in replies))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _ask(self, prompt: Prompt, start: int, size: int) -> _Reply:
        """Samples `start` to `start + size` of a prompt, or fewer where the endpoint gives fewer; tried until it works."""
        attempt, attempts = 0, self._config.remote.max_attempts
        while True:
            count = min(size, self._choices_at_most)
            body = self._body(prompt, start, count)
            result = await self._attempt(prompt, body, count)
            if isinstance(result, _Reply):
                if len(result.choices) < count:
                    self._choices_at_most = min(self._choices_at_most, len(result.choices))
                return result
            if result.kind == "unusable":
                self._unusable = f"{self._config.remote.url}: {result.detail}"
                raise TeacherUnusableError(self._unusable)
            if result.kind == "refused":
                if self._learned(result, body):
                    continue
                raise PromptRefusedError(result.reason, result.detail)
            attempt += 1
            if attempt >= attempts:
                raise PromptRefusedError("engine_error", f"{attempts} attempts failed; the last: {result.detail}")
            await asyncio.sleep(wait_s(attempt, result.retry_after_s, self._chance))

    def _learned(self, failure: Failure, body: dict[str, Any]) -> bool:
        """Whether a refused request can be put in a way that the endpoint takes; remembered for all that follow."""
        if failure.parameter == "n" and "n" in body:
            self._choices_at_most = 1
            return True
        renamed = failure.parameter == "max_tokens" and "max_completion_tokens" in failure.detail
        if renamed and "max_tokens" in body and "messages" in body:
            self._limit_field = "max_completion_tokens"  # OpenAI's reasoning models know it by this name alone
            return True
        return False

    async def _attempt(self, prompt: Prompt, body: dict[str, Any], count: int) -> _Reply | Failure:
        """One request, when its turn has come."""
        async with self.admission.slot() as epoch:
            if self._unusable:
                raise TeacherUnusableError(self._unusable)
            reservation = self.meter.reserve(_estimate(prompt), count * self._config.sampling.max_tokens)
            result: _Reply | Failure
            try:
                result = await self._send(body, prompt)
            except BaseException:  # cancelled, or a bug: the endpoint may be at work
                self.meter.forfeit(reservation)
                raise
            if isinstance(result, _Reply):
                self.meter.settle(reservation, result.prompt_tokens, result.output_tokens)
                self.admission.limit.succeeded(epoch)
                return result
            if result.may_have_cost:
                self.meter.forfeit(reservation)
            else:
                self.meter.release(reservation)
            if result.overloaded:
                self.admission.limit.overloaded(epoch)
            if result.retry_after_s:
                self.admission.pause(result.retry_after_s)
            return result

    async def _send(self, body: dict[str, Any], prompt: Prompt) -> _Reply | Failure:
        import openai

        if self._client is None:
            self._client = self._connect()
        create = self._client.chat.completions.create if prompt.messages else self._client.completions.create
        try:
            async with asyncio.timeout(self._config.remote.timeout_s):
                response = await create(**body)
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            return failure_of(error, self._key)
        return self._read(response, prompt)

    def _connect(self) -> Any:
        import openai

        # The client's timeouts are for each read; the one around the call is for the whole request.
        url, key = self._config.remote.url, self._key.reveal()
        return openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=None)

    def _body(self, prompt: Prompt, start: int, count: int) -> dict[str, Any]:
        """The request. What has its default value is left out: not every endpoint knows every field."""
        sampling = self._config.sampling
        body: dict[str, Any] = {
            "model": self._config.model,
            "temperature": sampling.temperature,
            self._limit_field: sampling.max_tokens,
        }
        if prompt.messages:
            body["messages"] = [dict(message) for message in prompt.messages]
        else:
            body["prompt"] = prompt.text
        if self._stops:
            body["stop"] = self._stops
        if count > 1:
            body["n"] = count
        if sampling.top_p < 1.0:
            body["top_p"] = sampling.top_p
        if sampling.temperature > 0:
            body["seed"] = sampling.seed + start  # samples asked for one by one must not all be the same one
        return body

    def _read(self, response: Any, prompt: Prompt) -> _Reply | Failure:
        found = getattr(response, "choices", None)
        if not found:
            error = getattr(response, "error", None)  # some gateways answer 200 and put the failure inside
            return unreadable(f"no choices{f', but {error}' if error else ''}", self._key)
        texts = [(c.message.content if prompt.messages else c.text) or "" for c in found]
        choices = tuple((text, c.finish_reason or "unknown") for text, c in zip(texts, found, strict=True))
        usage = getattr(response, "usage", None)
        if usage is None:
            return _Reply(choices, _estimate(prompt), sum(estimate_tokens([text]) for text in texts))
        return _Reply(choices, int(usage.prompt_tokens or 0), int(usage.completion_tokens or 0))


def _estimate(prompt: Prompt) -> int:
    if not prompt.messages:
        return estimate_tokens([prompt.text])
    return estimate_tokens(m["content"] for m in prompt.messages) + _TOKENS_PER_MESSAGE * len(prompt.messages)


def _shares(total: int, weights: list[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights`: endpoints count the tokens of all choices together."""
    whole = sum(weights) or 1
    bounds = [math.floor(total * sum(weights[:i]) / whole) for i in range(len(weights))] + [total]
    return [upper - lower for lower, upper in itertools.pairwise(bounds)]
