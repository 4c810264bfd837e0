"""Labels that take over stored answers, on Ray, with an endpoint that counts its requests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.label.stage import label
from pipelines.label.stored.forecast import stored_among
from pipelines.tasks import load_task, task_spec
from tests.support.run_files import label_run, word_rows
from tests.support.teacher_endpoint import Endpoint

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROWS = word_rows(66)
TASK = """
from pipelines.tasks import Answer
from pipelines.tasks.arithmetic import Arithmetic

class Own(Arithmetic):
    name, parser = "own", "{parser}"

    def parse(self, text, example):
        return Answer("{label}", text)
"""


def make_run(folder: Path, endpoint: Endpoint, rows: int = 60, output: str = "out", **changes: Any) -> RunConfig:
    teacher = {"engine": "openai", "model": "m", "remote": {"url": endpoint.url}, "sampling": {"max_tokens": 30}}
    teacher |= changes.pop("teacher", {})
    labelling = {"max_reject_share": 1.0, **changes.pop("labelling", {})}
    run = label_run(folder, ROWS[:rows], teacher, labelling=labelling, **changes)
    return run.model_copy(update={"output": str(folder / output)})


def sent(endpoint: Endpoint) -> list[str]:
    """The questions since the last call."""
    found = [seen.question for seen in endpoint.seen if seen.status == 200]
    endpoint.seen.clear()
    return found


def keys(folder: Path) -> Counter[bytes]:
    return Counter(key for part in folder.glob("*.parquet") for key in pq.read_table(part)["key"].to_pylist())


def test_a_grown_corpus_sends_only_its_new_rows(ray_here: None, tmp_path: Path, endpoint: Endpoint) -> None:
    first = label(make_run(tmp_path, endpoint))
    assert (len(sent(endpoint)), first.details["stored"]["rows"]) == (60, 0)
    grown = make_run(tmp_path, endpoint, rows=66)
    task = load_task(task_spec("arithmetic"))
    assert stored_among(grown, [task.read({"gold": None, **row}) for row in ROWS], replaced=True) == 60
    with pytest.raises(UserError, match="takes over the answers to unchanged prompts"):
        label(grown)

    second = label(grown, replace=True)
    questions = sent(endpoint)
    assert {question.rpartition("Q: ")[2] for question in questions} == {f"{row['input']}\nA:" for row in ROWS[60:]}
    assert len(questions) == 6
    assert second.counts["read"] == 66
    assert second.details["stored"]["rows"] == 60
    texts = tmp_path / "out/labels/texts"
    assert (len(keys(texts)), set(keys(texts).values())) == (66, {1})
    assert not list((tmp_path / "out/labels/earlier").glob("*"))

    filtered = make_run(tmp_path, endpoint, rows=66, teacher={"filters": {"min_rationale_words": 500}})
    third = label(filtered, replace=True)
    assert third.counts["rejected_by_reason"] == {"rationale_length": 66}
    assert third.details["engines"]["engines"] == 0, "no engine starts"

    other = make_run(tmp_path, endpoint, rows=66, output="other", labelling={"reuse": [str(tmp_path / "out")]})
    assert label(other).details["stored"]["rows"] == 66
    assert sent(endpoint) == []


def test_a_parser_of_another_version_sends_no_row(ray_here: None, tmp_path: Path, endpoint: Endpoint) -> None:
    task = tmp_path / "own_task.py"
    for parser, expected in (("1", 60), ("2", 0)):
        task.write_text(TASK.format(parser=parser, label=parser))
        manifest = label(make_run(tmp_path, endpoint, task=str(task)), replace=True)
        assert len(sent(endpoint)) == expected
        assert manifest.details["stored"]["rows"] == 60 - expected
        labels = pq.read_table(tmp_path / "out/labels/data")["label"].to_pylist()
        assert labels == [parser] * 60


def test_answers_of_another_teacher_are_kept_apart(ray_here: None, tmp_path: Path, endpoint: Endpoint) -> None:
    for model, expected in (("m", 60), ("n", 60), ("m", 0), ("n", 0)):
        manifest = label(make_run(tmp_path, endpoint, teacher={"model": model}), replace=True)
        assert (len(sent(endpoint)), manifest.details["stored"]["rows"]) == (expected, 60 - expected)
    assert len(keys(tmp_path / "out/labels/earlier")) == 60
    discard = make_run(tmp_path, endpoint, teacher={"model": "m"}, labelling={"reuse": []})
    label(discard, replace=True)
    assert len(sent(endpoint)) == 60
    assert not (tmp_path / "out/labels/earlier").exists()


def test_a_lost_file_costs_no_request_if_its_texts_are_there(
    ray_here: None, tmp_path: Path, endpoint: Endpoint
) -> None:
    run = make_run(tmp_path, endpoint, labelling={"commit_rows": 20})
    first = label(run)
    sent(endpoint)
    labels = tmp_path / "out/labels"
    next((labels / "rejects").glob("*.parquet"), next((labels / "data").glob("*.parquet"), None)).unlink()  # type: ignore[union-attr]
    again = label(run)
    assert sent(endpoint) == []
    assert (again.counts, again.details["content"]) == (first.counts, first.details["content"])
    record = json.loads((labels / "manifest.json").read_text())
    assert sum(rows for name, rows in record["details"]["parts"].items() if name.startswith("texts/")) == 60


def test_batches_answer_all_rows_at_half_the_price(ray_here: None, tmp_path: Path, endpoint: Endpoint) -> None:
    price = {"per_million_prompt_tokens": 1.0, "per_million_output_tokens": 2.0}
    remote = {"url": endpoint.url, "batch": True, "batch_rows": 25, "batch_poll_s": 0.1}
    manifest = label(make_run(tmp_path, endpoint, teacher={"remote": remote, "price": price}))
    assert (len(sent(endpoint)), len(endpoint.batch.requests()), manifest.counts["accepted"]) == (1, 59, 60)
    assert manifest.details["stored"]["rows"] == 0, "these answers were paid for by this run"
    assert manifest.details["cost"]["amount"] == pytest.approx(60 * (20 * 0.5 + 10 * 1.0) / 1e6)
    assert "in batches at 50% of teacher.price" in manifest.details["cost"]["basis"]
    assert not list((tmp_path / "out/labels/batches").glob("*"))
    usual = make_run(tmp_path, endpoint, output="usual", labelling={"reuse": [str(tmp_path / "out")]})
    assert label(usual).details["stored"]["rows"] == 60, "usual requests have the same keys"
    assert sent(endpoint) == []
