"""A teacher behind an OpenAI-compatible endpoint: `POST {url}/completions` for plain prompts, `/chat/completions` for chat.

The official client sends, without its own retries. Three things concern all requests of a teacher together:

    rate_limit.py    how many requests the endpoint takes, and until when it wants none
    budget.py        what is left of the budget
    http_errors.py   whether a failure is transient, of one row, or of key, URL and model

The key reaches the actor as a constructor argument. `runtime_env` would leak it: Ray 2.60 writes its env_vars in clear text to
runtime_env_agent.log, and `list_actors` and `list_tasks` show them.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any, Self

from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import (
    NOTHING_USED,
    Access,
    Generation,
    Load,
    Prompt,
    PromptRefusedError,
    Teacher,
    TeacherUnusableError,
    TokensUsed,
    row_seed,
    stop_strings,
)
from pipelines.label.teachers.budget import BudgetMeter, estimate_tokens
from pipelines.label.teachers.chat import folded
from pipelines.label.teachers.circuit_breaker import CircuitBreaker
from pipelines.label.teachers.http_errors import Failure, failure_of, quota_pause_s, unreadable, wait_s
from pipelines.label.teachers.openai_replies import Reply, generation_of, read_reply
from pipelines.label.teachers.rate_limit import AdaptiveLimit, Admission
from pipelines.label.teachers.remote_settings import check_remote, remote_key
from pipelines.tasks import Task

_OPTIONAL = ("temperature", "top_p", "seed", "stop")
"""Fields that a request can do without if the endpoint refuses them."""
FIRST_ALONE_S = 3.0
"""The others wait so long for the result of the first request. A refusal comes at once, an answer may take long."""
_TOKENS_PER_MESSAGE = 8
"""Estimate of what a chat template adds to a message."""

Body = dict[str, Any]
"""A request, as keyword arguments of the client."""


class OpenaiTeacher(Teacher):
    """Queries an endpoint. The client belongs to the event loop of the first call."""

    meters_budget = True

    def __init__(
        self, config: TeacherConfig, task: Task, *, key: SecretStr | None = None, used: TokensUsed = NOTHING_USED
    ) -> None:
        """`key` None: read from this process' environment. `used`: by finished rows, for the budget."""
        self._config = config
        self._key = remote_key(config) if key is None else key
        self._stops = stop_strings(config, task)
        self.meter = BudgetMeter(config.budget, config.charged, used)
        self.admission = Admission(AdaptiveLimit(config.remote.max_concurrent_requests))
        self.breaker = CircuitBreaker(config.remote.url or "", config.remote.max_outage_s)
        self._chance = random.Random()
        self._client: Any = None
        self._unusable: str | None = None
        self._first: asyncio.Event | None = None
        """Set once the first request has its result. None before it is sent."""
        # What the endpoint's refusals have shown.
        self._max_choices = config.sampling.n
        self._limit_field = "max_tokens"
        self._unsupported: set[str] = set()
        self._folds = False

    @classmethod
    def check(cls, config: TeacherConfig) -> None:
        check_remote(config)

    @classmethod
    def model_identity(cls, config: TeacherConfig) -> str | None:
        """The endpoint's name for the model, which is no folder, even if a folder of that name exists here."""
        return config.model

    @classmethod
    def load(cls, config: TeacherConfig) -> Load:
        limit = config.remote.max_concurrent_requests
        return Load(limit, 2 * limit)  # the teacher limits itself, and a longer queue costs nothing

    @classmethod
    def key(cls, config: TeacherConfig) -> SecretStr:
        return remote_key(config)

    @classmethod
    def start(cls, config: TeacherConfig, task: Task, access: Access) -> Self:
        return cls(config, task, key=access.key, used=access.used)

    async def answer(self, prompt: Prompt) -> Generation:
        """n samples. `prompt_tokens` counts the prompt once per request, as the endpoint charges it.

        Raises:
            PromptRefusedError: the endpoint refuses this prompt, or every attempt failed.
            TeacherUnusableError: the endpoint refuses every prompt.
            BudgetExhaustedError: the next request could use more than is left.
        """
        n = self._config.sampling.n
        replies: list[Reply] = []
        while (count := sum(len(reply.choices) for reply in replies)) < n:
            size = min(self._max_choices, n - count)
            starts = range(count, n, size)
            requests = [self._request(prompt, start, min(size, n - start)) for start in starts]
            # Await all before raising one's error: they are paid for, and no request may outlive its row.
            for reply in await asyncio.gather(*requests, return_exceptions=True):
                if isinstance(reply, BaseException):
                    raise reply
                replies.append(reply)
        return generation_of(replies, n)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _request(self, prompt: Prompt, start: int, size: int) -> Reply:
        """Samples `start` to `start + size` of a prompt, or fewer if the endpoint returns fewer; with retries."""
        attempt, attempts = 0, self._config.remote.max_attempts
        while True:
            count = min(size, self._max_choices)
            body = self._body(prompt, start, count)
            result = await self._attempt(prompt, body, count)
            if isinstance(result, Reply):
                if result.problem:
                    raise PromptRefusedError("engine_error", result.problem)
                if len(result.choices) < count:
                    self._max_choices = min(self._max_choices, len(result.choices))
                return result
            if result.kind == "unusable":
                self._unusable = f"{self._config.remote.url}: {result.detail}"
                raise TeacherUnusableError(self._unusable)
            if result.kind == "refused":
                if self._adapt(result, body):
                    continue
                raise PromptRefusedError(result.reason, result.detail)
            if result.outage and self.breaker.is_open:
                continue  # the row waits with all others until the endpoint answers
            attempt += 1
            if attempt >= attempts:
                raise PromptRefusedError("engine_error", f"{attempts} attempts failed; the last: {result.detail}")
            await asyncio.sleep(wait_s(attempt, result.retry_after_s, self._chance))

    def _adapt(self, failure: Failure, body: Body) -> bool:
        """Learn from a refusal how this endpoint takes requests. Returns True if the request is worth another try."""
        if failure.parameter == "n" and "n" in body:
            self._max_choices = 1
            return True
        if failure.parameter in _OPTIONAL and failure.parameter in body:
            self._unsupported.add(failure.parameter)  # models that take only their default refuse every row otherwise
            return True
        has_system = body.get("messages", [{}])[0].get("role") == "system"
        if has_system and not self._folds and "system" in failure.detail.lower():
            self._folds = True  # the model's template has no system turn
            return True
        renamed = failure.parameter == "max_tokens" and "max_completion_tokens" in failure.detail
        if renamed and "max_tokens" in body and "messages" in body:
            self._limit_field = "max_completion_tokens"  # the only name that OpenAI's reasoning models know
            return True
        return False

    async def _attempt(self, prompt: Prompt, body: Body, count: int) -> Reply | Failure:
        """One request. The first one goes alone: it shows whether key, URL and model are right."""
        if self._first is None:
            self._first = asyncio.Event()
            try:
                return await self._request_once(prompt, body, count)
            finally:
                self._first.set()
        if not self._first.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._first.wait(), FIRST_ALONE_S)
        return await self._request_once(prompt, body, count)

    async def _request_once(self, prompt: Prompt, body: Body, count: int) -> Reply | Failure:
        """One request, after it is admitted."""
        while True:
            probe = await self.breaker.admit()
            answered = False
            try:
                async with self.admission.slot() as epoch:
                    if self.breaker.is_open and not probe:
                        continue  # an outage began while this request waited for its place
                    result = await self._admitted(prompt, body, count, epoch)
                    answered = isinstance(result, Reply) or not result.outage
                    self.breaker.record(answered, probe=probe)
                    probe = False
                    return result
            finally:
                if probe:  # cancelled, or refused for the budget
                    self.breaker.record(answered, probe=True)

    async def _admitted(self, prompt: Prompt, body: Body, count: int, epoch: int) -> Reply | Failure:
        """One request in its place."""
        if self._unusable:
            raise TeacherUnusableError(self._unusable)
        reservation = self.meter.reserve(prompt_tokens(prompt), count * self._config.sampling.max_tokens)
        try:
            result = await self._send(body, prompt)
        except BaseException:  # cancelled, or a bug: the endpoint may be at work
            self.meter.forfeit(reservation)
            raise
        if isinstance(result, Reply):
            self.meter.settle(reservation, result.prompt_tokens, result.output_tokens, result.cached_tokens)
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

    async def _send(self, body: Body, prompt: Prompt) -> Reply | Failure:
        import openai

        if self._client is None:
            self._client = self._connect()
        api = self._client.chat.completions if prompt.messages else self._client.completions
        try:
            async with asyncio.timeout(self._config.remote.timeout_s):
                raw = await api.with_raw_response.create(**body)
            response = raw.parse()
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            return failure_of(error, self._key)
        self.admission.pause(quota_pause_s(raw.headers, prompt_tokens(prompt) + self._config.sampling.max_tokens))
        reply = read_reply(response, chat=bool(prompt.messages), prompt_tokens=prompt_tokens(prompt))
        return unreadable(reply, self._key) if isinstance(reply, str) else reply

    def _connect(self) -> Any:
        import openai

        # The client's timeout would restart with every read; the one around the call covers the whole request.
        url, key = self._config.remote.url, self._key.get_secret_value()
        return openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=None)

    def batch_request(self, prompt: Prompt) -> tuple[str, Body]:
        """(path, body) of one request for all samples of a prompt, as a line of the Batch API has them."""
        body = self._body(prompt, 0, self._config.sampling.n)
        extra = body.pop("extra_body", {})
        return ("/v1/chat/completions" if prompt.messages else "/v1/completions"), {**body, **extra}

    def _body(self, prompt: Prompt, start: int, count: int) -> Body:
        """The request. Fields at their default are left out, because not every endpoint knows every field."""
        sampling = self._config.sampling
        body: Body = {
            "model": self._config.model,
            "temperature": sampling.temperature,
            self._limit_field: sampling.max_tokens,
        }
        if prompt.messages:
            messages = folded(prompt.messages) if self._folds else prompt.messages
            body["messages"] = [dict(message) for message in messages]
        else:
            body["prompt"] = prompt.text
        if self._stops:
            body["stop"] = self._stops
        if count > 1:
            body["n"] = count
        if sampling.top_p < 1.0:
            body["top_p"] = sampling.top_p
        if sampling.temperature > 0 and sampling.seed is not None:
            # Requests for further samples must not repeat the first one.
            body["seed"] = row_seed(sampling.seed, prompt.example.id, start)
        extra: Body = {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "chat_template_kwargs": self._config.chat_template_kwargs or None,
        }
        extra = {name: value for name, value in extra.items() if value is not None}
        if extra:
            body["extra_body"] = extra
        return {name: value for name, value in body.items() if name not in self._unsupported}


def prompt_tokens(prompt: Prompt) -> int:
    """Approximate tokens of a prompt."""
    if not prompt.messages:
        return estimate_tokens([prompt.text])
    return estimate_tokens(m["content"] for m in prompt.messages) + _TOKENS_PER_MESSAGE * len(prompt.messages)
