"""OpenAI's Batch API, over an endpoint on this machine: what is sent, what a kill and a failure leave. Lookups have no Ray here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.errors import StageFailedError, UserError
from pipelines.label.batches.answers import Answers
from pipelines.label.batches.records import Batch, read_batches
from pipelines.label.batches.run import Batches
from pipelines.label.output.counts import Counts
from pipelines.label.stored.lookup import MissingPrompt
from pipelines.storage.store import Store
from tests.support.corpora import run_config
from tests.support.label_writers import Killed, killed_after
from tests.support.remote_teacher import prompt
from tests.support.teacher_endpoint import KEY, Endpoint, endpoint

__all__ = ["endpoint"]


class Folder:
    """A labels folder and its rows' prompts, in place of the writer and the lookup."""

    finished_rows = 0

    def __init__(self, path: Path, rows: int, chat: bool = False) -> None:
        self.store, self._rows, self._chat = Store(str(path)), rows, chat

    @property
    def counts(self) -> Counts:
        return Counts(prompt_tokens=20 * len(self.answered()), output_tokens=10 * len(self.answered()))

    def check_lock(self) -> None: ...

    def phase(self, name: str) -> None: ...

    def answered(self) -> set[bytes]:
        names = self.store.files("batches", ".parquet")
        return {key for name in names for key in pq.read_table(self.store.path(name))["key"].to_pylist()}

    def missing(self) -> Iterator[MissingPrompt]:
        for number in range(self._rows):
            key = number.to_bytes(16, "big")
            if key not in self.answered():
                yield MissingPrompt(key, prompt(f"row {number}", self._chat))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def answer(folder: Folder, endpoint: Endpoint, **teacher: Any) -> None:
    remote = {"url": endpoint.url, "batch": True, "batch_rows": 4, "batch_poll_s": 0.01, **teacher.pop("remote", {})}
    run = run_config({"engine": "openai", "model": "m", "remote": remote, "sampling": {"max_tokens": 30}, **teacher})
    Batches(run, folder, folder).answer(lambda: None, folder.missing)  # type: ignore[arg-type]


@pytest.mark.parametrize("chat", [False, True])
def test_every_prompt_is_sent_once_and_answered(tmp_path: Path, endpoint: Endpoint, chat: bool) -> None:
    folder = Folder(tmp_path, 10, chat)
    answer(folder, endpoint, prompt="chat" if chat else "plain", sampling={"n": 2, "temperature": 1.0, "top_k": 5})
    assert len(folder.answered()) == 10
    requests = endpoint.batch.requests()
    assert len(endpoint.seen) == 1, "the first prompt is a usual request"
    assert len(requests) == len({request["custom_id"] for request in requests}) == 9
    assert len(endpoint.batch.batches) == 3
    body = requests[0]["body"]
    assert (body["n"], body["top_k"], body["max_tokens"]) == (2, 5, 256)
    assert requests[0]["url"] == ("/v1/chat/completions" if chat else "/v1/completions")
    rows = [row for part in (tmp_path / "batches").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    [row] = [row for row in rows if row["key"][-1] == 7]
    assert [sample["text"][:8] for sample in row["samples"]] == ["answer 0", "answer 1"]
    assert (row["prompt_tokens"], sum(sample["tokens"] for sample in row["samples"])) == (20, 20)
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "batches").glob("*.json"))


@pytest.mark.parametrize("calls", range(9))
def test_a_kill_at_any_write_sends_no_prompt_twice(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Except the one usual request, whose answer is written after it came."""
    folder = Folder(tmp_path, 8)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", killed_after(calls))
        with pytest.raises(Killed):
            answer(folder, endpoint)
    answer(folder, endpoint)
    assert len(folder.answered()) == 8
    sent = [request["custom_id"] for request in endpoint.batch.requests()]
    assert len(sent) == len(set(sent)) <= 7


def test_expired_batches_are_sent_again_and_failed_requests_not(tmp_path: Path, endpoint: Endpoint) -> None:
    folder, endpoint.batch.answered_share = Folder(tmp_path, 9), 0.5
    answer(folder, endpoint)
    assert len(folder.answered()) == 9
    endpoint.batch.answered_share = 0.0
    with pytest.raises(StageFailedError, match="has answered no request"):
        answer(Folder(tmp_path / "none", 9), endpoint)
    endpoint.batch.broken, endpoint.batch.answered_share = frozenset({1}), 1.0
    folder = Folder(tmp_path / "other", 9)
    answer(folder, endpoint)
    assert len(folder.answered()) == 7, "one of each batch is left to usual requests"
    assert {batch.failed for batch in read_batches(folder.store)} == {0, 1}
    assert {batch.problem for batch in read_batches(folder.store)} == {"", "content is refused"}


def test_a_full_queue_is_waited_for_and_other_refusals_are_named(tmp_path: Path, endpoint: Endpoint) -> None:
    folder, endpoint.batch.room = Folder(tmp_path, 13), 1
    answer(folder, endpoint)
    assert len(folder.answered()) == 13
    endpoint.batch.room = 0
    rule = r"refuses batch .* too many tokens in the queue.*Lower teacher.remote.batch_rows"
    with pytest.raises(StageFailedError, match=rule):
        answer(Folder(tmp_path / "other", 9), endpoint)
    endpoint.batch.room, endpoint.batch.broken = 9, frozenset(range(3))
    rule = r"3 of 4 requests of batch .* failed, the first with: content is refused"
    with pytest.raises(StageFailedError, match=rule):
        answer(Folder(tmp_path / "third", 9), endpoint)


def test_a_budget_limits_what_is_sent(tmp_path: Path, endpoint: Endpoint) -> None:
    folder = Folder(tmp_path, 9)
    answer(folder, endpoint, budget={"tokens": 160})
    assert 1 < len(folder.answered()) < 9


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches/x.json").write_text("{")
    with pytest.raises(UserError, match=r"batches/x.json: not the record of a batch"):
        read_batches(Store(str(tmp_path)))


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"custom_id": 7}', '{"custom_id": "zz"}', "[" * 100_000])
def test_lines_without_a_key_are_skipped(line: str) -> None:
    answers = Answers(1)
    answers.read([line])
    assert (answers.generations, answers.failed) == ({}, {})


def test_hostile_answers_are_failures_of_their_request() -> None:
    answers, body = Answers(1), {"choices": [{"text": "t", "finish_reason": "stop"}]}
    found: list[Any] = [None, {}, {"status_code": 200}, {"status_code": 200, "body": {"choices": 7}}, {"status_code": 200, "body": {}},
                        {"status_code": 500, "body": body}, {"status_code": 200, "body": body}]  # fmt: skip
    answers.read(json.dumps({"custom_id": f"{i:032x}", "response": r}) for i, r in enumerate(found))
    assert len(answers.failed) == 6
    assert [generation.samples[0].text for generation in answers.generations.values()] == ["t"]
    assert answers.table().num_rows == 1
    assert Batch(requests=1).name != Batch(requests=1).name
