"""OpenAI's Batch API, over an endpoint on this machine: what is sent, and what kills, failures and refusals leave."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.errors import StageFailedError, UserError
from pipelines.label.batches.answers import Answers
from pipelines.label.batches.records import read_batches
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
    """A labels folder with its rows: stands for the writer, the progress file and the lookup, without Ray."""

    def __init__(self, path: Path, rows: int, chat: bool = False) -> None:
        self.store, self._rows, self._chat = Store(str(path)), rows, chat

    @property
    def counts(self) -> Counts:
        return Counts(prompt_tokens=20 * len(self.answered()), output_tokens=10 * len(self.answered()))

    def check_lock(self) -> None: ...

    def phase(self, name: str) -> None: ...

    def texts(self) -> dict[bytes, dict[str, Any]]:
        parts = [pq.read_table(self.store.path(name)) for name in self.store.files("batches", ".parquet")]
        return {row["key"]: row for part in parts for row in part.to_pylist()}

    def answered(self) -> set[bytes]:
        return set(self.texts())

    def missing(self) -> Iterator[MissingPrompt]:
        for key in {number.to_bytes(16, "big") for number in range(self._rows)} - self.answered():
            yield MissingPrompt(key, prompt(f"row {key[-1]}", self._chat))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def answer(folder: Folder, endpoint: Endpoint, **teacher: Any) -> set[bytes]:
    remote = {"url": endpoint.url, "batch": True, "batch_rows": 4, "batch_poll_s": 0.01}
    run = run_config({"engine": "openai", "model": "m", "remote": remote, "sampling": {"max_tokens": 30}, **teacher})
    Batches(run, folder, folder).answer(lambda: None, folder.missing)  # type: ignore[arg-type]
    return folder.answered()


@pytest.mark.parametrize("chat", [False, True])
def test_every_prompt_is_sent_once(tmp_path: Path, endpoint: Endpoint, chat: bool) -> None:
    folder, sampling = Folder(tmp_path, 10, chat), {"n": 2, "temperature": 1.0, "top_k": 5}
    assert len(answer(folder, endpoint, prompt="chat" if chat else "plain", sampling=sampling)) == 10
    requests = endpoint.batch.requests()
    assert len(endpoint.seen) == 1, "the first prompt is a usual request"
    assert len(requests) == len({request["custom_id"] for request in requests}) == 9
    assert len(endpoint.batch.batches) == 3
    assert requests[0]["body"].items() >= {"n": 2, "top_k": 5, "max_tokens": 256}.items()
    assert requests[0]["url"] == ("/v1/chat/completions" if chat else "/v1/completions")
    row = folder.texts()[(7).to_bytes(16, "big")]
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
    assert len(answer(folder, endpoint)) == 8
    sent = [request["custom_id"] for request in endpoint.batch.requests()]
    assert len(sent) == len(set(sent)) <= 7


def test_expired_requests_are_sent_again_and_failed_ones_not(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.batch.answered_share = 0.5
    assert len(answer(Folder(tmp_path / "half", 9), endpoint)) == 9
    endpoint.batch.broken, endpoint.batch.answered_share = frozenset({1}), 1.0
    folder = Folder(tmp_path / "broken", 9)
    assert len(answer(folder, endpoint)) == 7, "one of each batch is left to usual requests"
    found = {(batch.failed, batch.problem) for batch in read_batches(folder.store)}
    assert found == {(0, ""), (1, "content is refused")}
    assert 1 < len(answer(Folder(tmp_path / "budget", 9), endpoint, budget={"tokens": 160})) < 9
    endpoint.batch.room = 1
    assert len(answer(Folder(tmp_path / "queue", 13), endpoint)) == 10, "a full queue is awaited"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answered_share": 0.0}, "has answered no request"),
        ({"room": 0}, r"refuses batch .* too many tokens in the queue.*Lower teacher.remote.batch_rows"),
        ({"broken": frozenset(range(3))}, r"3 of 4 requests of batch .* failed, the first with: content is refused"),
    ],
)
def test_a_silent_endpoint_is_named(tmp_path: Path, endpoint: Endpoint, changes: dict[str, Any], message: str) -> None:
    vars(endpoint.batch).update(changes)
    with pytest.raises(StageFailedError, match=message):
        answer(Folder(tmp_path, 9), endpoint)


def test_hostile_lines_are_skipped_or_fail_their_request(tmp_path: Path) -> None:
    answers, body = Answers(1), {"choices": [{"text": "t", "finish_reason": "stop"}]}
    answers.read(["", "[]", "{}", '{"custom_id": 7}', '{"custom_id": "zz"}', "[" * 100_000])
    assert (answers.generations, answers.failed) == ({}, {})
    found: list[Any] = [None, {}, {"status_code": 200}, {"status_code": 200, "body": {"choices": 7}}, {"status_code": 200, "body": {}},
                        {"status_code": 500, "body": body}, {"status_code": 200, "body": body}]  # fmt: skip
    answers.read(json.dumps({"custom_id": f"{i:032x}", "response": r}) for i, r in enumerate(found))
    assert (len(answers.failed), answers.table().num_rows) == (6, 1)
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches/x.json").write_text("{")
    with pytest.raises(UserError, match=r"batches/x.json: not the record of a batch"):
        read_batches(Store(str(tmp_path)))
