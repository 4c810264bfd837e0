"""Labelling through batches: send the prompts without an answer, await the batches, let rows take their answers over, and again.

A row that is rationalised needs a second round. What no batch answers is left to the endpoint's usual requests. After a kill the next run
finds its batches by their records and awaits them; no prompt is sent twice.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.data.schema import TEXT_PARQUET
from pipelines.errors import StageFailedError
from pipelines.label.batches.answers import Answers, request_line
from pipelines.label.batches.api import BatchApi
from pipelines.label.batches.records import Batch, read_batches
from pipelines.label.output.spending import used_tokens
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reporting.progress_file import LabelProgressFile
from pipelines.label.stored.lookup import MissingPrompt
from pipelines.label.teachers.base import BudgetExhaustedError, PromptRefusedError, TeacherUnusableError, TokensUsed
from pipelines.label.teachers.budget import BudgetMeter
from pipelines.label.teachers.openai import OpenaiTeacher, prompt_tokens
from pipelines.label.teachers.remote_settings import remote_key
from pipelines.runtime.terminal import say
from pipelines.storage.parquet import parquet_bytes
from pipelines.tasks import load_task, task_spec

if TYPE_CHECKING:
    from openai.types import Batch as RemoteBatch

_FILE_BYTES = 180_000_000
"""OpenAI takes 200 MB."""
_FAILED_SHARE = 0.5
_ENDED = ("completed", "expired", "cancelled")
_FULL = "token_limit_exceeded"
"""Error of a batch that the endpoint has no room for, beside those in its queue."""
_KEPT = "Finished rows and batches are kept. Run the same command to resume."


class Batches:
    """The batches of one labels folder, while its lock is held."""

    def __init__(self, run: RunConfig, writer: LabelWriter, live: LabelProgressFile) -> None:
        self._run, self._config, self._labels, self._live = run, run.teacher, writer.store, live
        self._check_lock, self._writer = writer.check_lock, writer
        key = remote_key(run.teacher)
        self._api = BatchApi(run.teacher, key)
        task = load_task(task_spec(run.task, run.task_options))
        self._teacher = OpenaiTeacher(run.teacher, task, key=key, used=self._used_tokens())
        self._tried = False
        self._failed: set[bytes] = set()
        self._answered = 0

    def answer(self, take_over: Callable[[], None], missing: Callable[[], Iterator[MissingPrompt]]) -> None:
        """Answer what batches can answer.

        Args:
            take_over: commits the rows whose answers are here.
            missing: the prompts that rows without an outcome need next.

        Raises:
            StageFailedError: the endpoint refuses batches, or most requests of one.
        """
        try:
            while True:
                self._await_all()
                take_over()
                if not self._send(missing()):
                    return
        except TeacherUnusableError as error:
            raise StageFailedError(f"labelling failed: {error}. {_KEPT}") from error

    def _send(self, prompts: Iterator[MissingPrompt]) -> bool:
        """Send the prompts in batches. True if there were any that no batch has failed on."""
        sent = False
        with tempfile.TemporaryDirectory(prefix="raystill-batch-") as folder:
            for requests in self._files(prompts, Path(folder)):
                batch = Batch(requests=requests.count)
                self._check_lock()
                batch.write(self._labels)
                batch.id = self._api.send(requests.file, requests.path, batch.name).id
                batch.write(self._labels)
                sent = True
        return sent

    def _files(self, prompts: Iterator[MissingPrompt], folder: Path) -> Iterator[_Requests]:
        """Files of requests, each removed when the next one is made. Ends early if the budget has no room for another request."""
        requests, sampling = _Requests(folder / "requests.jsonl"), self._config.sampling
        meter = BudgetMeter(self._config.budget, self._config.charged, self._used_tokens())
        with suppress(BudgetExhaustedError):  # the usual requests report it
            for missing in prompts:
                if missing.key in self._failed or missing.key in requests.keys:
                    continue
                if not self._tried and self._try(missing):
                    continue
                meter.reserve(prompt_tokens(missing.prompt), sampling.n * sampling.max_tokens)
                requests.add(missing, *self._teacher.batch_request(missing.prompt))
                if requests.count >= self._config.remote.batch_rows or requests.bytes >= _FILE_BYTES:
                    yield requests
                    requests = _Requests(folder / "requests.jsonl")
        if requests.count:
            yield requests

    def _used_tokens(self) -> TokensUsed:
        return used_tokens(self._labels, self._writer.counts.paid_tokens)

    def _try(self, missing: MissingPrompt) -> bool:
        """Send one prompt as a usual request: the teacher learns from refusals how this endpoint takes requests. True if it is answered."""

        async def answer() -> bool:
            try:
                generation = await self._teacher.answer(missing.prompt)
            except PromptRefusedError:
                return False
            finally:
                await self._teacher.aclose()
            answers = Answers(self._config.sampling.n)
            answers.generations[missing.key] = generation
            self._keep(Batch(requests=1), answers)
            return True

        self._tried = True
        return asyncio.run(answer())

    def _await_all(self) -> None:
        """Wait until the answers of all batches are here. Raises StageFailedError if there are none."""
        waiting, answered_before = [batch for batch in read_batches(self._labels) if not batch.is_done], self._answered
        ended = bool(waiting)
        began = time.monotonic()
        while waiting:
            states = [(batch, self._state(batch)) for batch in waiting]
            for batch, state in states:
                self._check_lock()
                if state is None:  # a kill came before it was sent
                    self._labels.delete(batch.file)
                elif state.status == "failed":
                    self._refused(batch, state, alone=all(one and one.status == "failed" for _, one in states))
                elif state.status in _ENDED:
                    self._take(batch, state)
            there = {batch.name for batch in read_batches(self._labels) if not batch.is_done}
            waiting = [batch for batch in waiting if batch.name in there]
            if waiting:
                answered = sum(s.request_counts.completed for _, s in states if s and s.request_counts)
                total = sum(batch.requests for batch, _ in states)
                self._live.phase(f"waiting for {len(waiting)} batches, {answered:,} of {total:,} requests")
                if time.monotonic() - began < self._config.remote.batch_poll_s:
                    say(f"label: {len(waiting)} batches with {total:,} requests are sent")
                time.sleep(self._config.remote.batch_poll_s)
        if ended and self._answered == answered_before:
            rule = f"{self._config.remote.url} has answered no request of the last batches within their day"
            raise StageFailedError(f"labelling failed: {rule}. {_KEPT}")

    def _state(self, batch: Batch) -> RemoteBatch | None:
        if batch.id is not None:
            return self._api.state(batch.id)
        found = self._api.find(batch.name)
        if found is not None:
            batch.id = found.id
            batch.write(self._labels)
        return found

    def _take(self, batch: Batch, state: RemoteBatch) -> None:
        answers = Answers(self._config.sampling.n)
        answers.read(self._api.lines(state.output_file_id))
        answers.read(self._api.lines(state.error_file_id))
        batch.failed, batch.problem = len(answers.failed), next(iter(answers.failed.values()), "")
        self._failed |= set(answers.failed)
        self._keep(batch, answers)
        if batch.failed > _FAILED_SHARE * batch.requests:
            raise StageFailedError(
                f"labelling failed: {batch.failed:,} of {batch.requests:,} requests of batch {batch.id} failed, the first with: "
                f"{batch.problem.rstrip('.')}. {_KEPT} To send usual requests, add --set teacher.remote.batch=false."
            )

    def _keep(self, batch: Batch, answers: Answers) -> None:
        self._answered += len(answers.generations) + len(answers.failed)
        self._labels.write(batch.answers, parquet_bytes(answers.table(), **TEXT_PARQUET))
        batch.model_copy(update={"is_done": True}).write(self._labels)

    def _refused(self, batch: Batch, state: RemoteBatch, *, alone: bool) -> None:
        """The endpoint does not take the batch. Its prompts are sent again once others have made room."""
        errors = list(getattr(state.errors, "data", None) or [])
        texts = [f"{error.code}: {error.message}" for error in errors]
        if alone or not any(error.code == _FULL for error in errors):
            problem = "; ".join(texts[:3]) or "no reason is given"
            remedy = "Lower teacher.remote.batch_rows." if any(error.code == _FULL for error in errors) else ""
            self._labels.delete(batch.file)
            raise StageFailedError(
                f"labelling failed: the endpoint refuses batch {batch.id} ({problem.rstrip('.')}). {_KEPT} {remedy}".rstrip()
            )
        self._labels.delete(batch.file)


@dataclass
class _Requests:
    """A file of requests that grows."""

    file: Path
    path: str = ""
    """Of every request."""
    count: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        self.file.unlink(missing_ok=True)
        self.keys: set[bytes] = set()

    def add(self, missing: MissingPrompt, path: str, body: dict[str, object]) -> None:
        """Add one request."""
        line = request_line(missing.key, path, body)
        with self.file.open("ab") as file:
            file.write(line)
        self.keys.add(missing.key)
        self.path, self.count, self.bytes = path, self.count + 1, self.bytes + len(line)
