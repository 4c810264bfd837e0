"""The label stage through a remote endpoint on this machine, and its early stops: budget, key, rejects."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.errors import StageFailedError
from pipelines.label.output.commits import committed_counts
from pipelines.label.output.spending import used_tokens
from pipelines.label.stage import label
from pipelines.storage.store import Store
from tests.support.commands import running
from tests.support.endpoints import wait_until
from tests.support.run_files import label_run, word_rows, write_run_file
from tests.support.teacher_endpoint import KEY, Endpoint, saying

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROWS, PROMPT_TOKENS, OUTPUT_TOKENS = 60, 20, 10


def make_run(folder: Path, endpoint: Endpoint, **changes: Any) -> RunConfig:
    remote = {"url": endpoint.url, "max_concurrent_requests": 4}
    teacher = {"engine": "openai", "model": "m", "remote": remote, "sampling": {"max_tokens": OUTPUT_TOKENS}}
    return label_run(folder, word_rows(ROWS), {**teacher, **changes.pop("teacher", {})}, **changes)


def questions(endpoint: Endpoint) -> Counter[str]:
    return Counter(seen.question for seen in endpoint.seen if seen.status == 200)


def test_a_larger_budget_resumes_without_repeated_requests(ray_here: None, tmp_path: Path, endpoint: Endpoint) -> None:
    # The estimate of a prompt exceeds the endpoint's charge, so fewer rows are sent than the budget allows.
    with pytest.raises(StageFailedError, match=r"budget.tokens 1,300.*rows have no label yet"):
        label(make_run(tmp_path, endpoint, teacher={"budget": {"tokens": 1300}}))
    sent = questions(endpoint)
    assert 0 < len(sent) < ROWS
    assert sum(sent.values()) * (PROMPT_TOKENS + OUTPUT_TOKENS) <= 1300
    manifest = label(make_run(tmp_path, endpoint, teacher={"budget": {"tokens": 100_000}}))
    assert manifest.counts["accepted"] == ROWS
    assert manifest.details["resumed_at_rows"] == len(sent)
    assert (len(questions(endpoint)), set(questions(endpoint).values())) == (ROWS, {1})
    assert manifest.details["tokens"] == {"prompt": ROWS * PROMPT_TOKENS, "output": ROWS * OUTPUT_TOKENS}
    assert KEY not in (tmp_path / "out/labels/manifest.json").read_text()


def test_a_trial_is_taken_over_and_counts_in_the_budget(ray_here: None, tmp_path: Path, endpoint: Endpoint) -> None:
    price = {"per_million_prompt_tokens": 1000.0, "per_million_output_tokens": 1000.0}
    teacher = {"price": price, "budget": {"money": 1.5}}
    label(make_run(tmp_path, endpoint, teacher=teacher, corpus={"limit": 10}))
    run = make_run(tmp_path, endpoint, teacher=teacher)
    rule = r"money 1.5 has no room for a row of .*: \d\.\d+ is spent; \d+ rows have no"
    with pytest.raises(StageFailedError, match=rule):
        label(run)
    assert sum(questions(endpoint).values()) * (PROMPT_TOKENS + OUTPUT_TOKENS) <= 1500
    details = label(make_run(tmp_path, endpoint, teacher={"price": price})).details
    assert set(questions(endpoint).values()) == {1}
    assert (details["cost"]["amount"], details["stored"]["cost"]) == (pytest.approx(1.8), pytest.approx(0.3))
    assert 0.3 < details["cost"]["this_run"] < 1.5


def test_a_refused_key_is_a_one_line_error(
    ray_here: None, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    with pytest.raises(StageFailedError, match="Incorrect API key") as refused:
        label(make_run(tmp_path, endpoint))
    assert "sk-of-somebody-else" not in str(refused.value)
    assert len(endpoint.seen) == 1
    assert not (tmp_path / "out/labels/manifest.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
def test_an_interrupted_run_counts_every_paid_answer(
    ray_here: None, tmp_path: Path, endpoint: Endpoint, number: signal.Signals
) -> None:
    """Ctrl-C loses no answer. SIGKILL may, and then the most that it can have cost is counted."""
    endpoint.latency_s = 1.0
    run, labels = make_run(tmp_path, endpoint), Store(str(tmp_path / "out/labels"))
    with running("label", str(write_run_file(tmp_path, run)), log=tmp_path / "log") as process:
        wait_until(lambda: len(questions(endpoint)) >= 6)
        process.send_signal(number)
        code, answered = process.wait(60), questions(endpoint)
    used = used_tokens(labels, committed_counts(labels)[0].paid_tokens)
    paid = answered.total() * (PROMPT_TOKENS + OUTPUT_TOKENS)
    if number == signal.SIGINT:
        log = (tmp_path / "log").read_text()
        assert (code, used.prompt + used.output, endpoint.disconnected) == (130, paid, 0), log
    else:
        assert used.prompt + used.output >= paid
    endpoint.latency_s = 0.0
    manifest = label(run)
    assert manifest.counts["accepted"] == ROWS
    if number == signal.SIGINT:
        assert manifest.details["resumed_at_rows"] == len(answered)
        assert set(questions(endpoint).values()) == {1}, "no row is paid twice"


def test_answers_that_are_nearly_all_rejected_stop_the_run_early(
    ray_here: None, tmp_path: Path, endpoint: Endpoint
) -> None:
    endpoint.behaviour = saying("I would rather not say.")
    settings = {"first_rows": 20, "max_reject_share": 0.9}
    rule = r"20 of the first 20 answers are rejected \(unparsable 20\).*I would rather"
    with pytest.raises(StageFailedError, match=rule):
        label(make_run(tmp_path, endpoint, labelling=settings))
    assert not (tmp_path / "out/labels/manifest.json").exists()
    manifest = label(make_run(tmp_path, endpoint, labelling={**settings, "max_reject_share": 1.0}))
    assert manifest.counts["rejected_by_reason"] == {"unparsable": ROWS}
    kept = json.loads((tmp_path / "out/labels/manifest.json").read_text())["details"]["resumed_at_rows"]
    assert kept >= 20
