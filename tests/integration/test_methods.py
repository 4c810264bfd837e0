"""Every method with real DeepSpeed on both families: it learns, and two workers match one."""

import random
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StageFailedError
from pipelines.methods import METHODS
from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from pipelines.train.data.tokenise import tokenise
from pipelines.train.loss_terms import TERMS
from tests.support.gloo_processes import run_workers
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels, write_tops

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

STEPS = 12


def _run(output: Path, family: str, method: str, workers: int = 1) -> Any:
    training = {"workers": workers, "tokens_per_batch": 700, "tokens_per_micro_batch": 350, "epochs": 4,
                "max_input_tokens": 60, "max_target_tokens": 40, "zero_stage": 2}  # fmt: skip
    student = {"model": str(output / family), "method": method, "temperature": 2.0, "divergence": "jsd"}
    return make_run(output, student["model"], training=training, student=student)


def _train(rank: int, world: int, output: str, family: str) -> dict[str, Any]:
    from pipelines.students.init import initial_student
    from pipelines.train.engine.worker import Worker

    found: dict[str, Any] = {}
    for method in METHODS:
        run = _run(Path(output), family, method, world)
        store, grouped = Store(f"{output}/tokens/{family}/{method}"), METHODS[method].compares_labels
        tokens = Tokens(store, Path(output), grouped=grouped)
        worker = Worker(run, initial_student(run.student, 0)[0], tokens, rank, world)
        before = worker.validate()
        history = [worker.step(step) for step in range(STEPS)]
        found[method] = {"before": before, "history": history, "after": worker.validate()}
    for parameter in worker.engine.module.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(StageFailedError) as error:
        worker.step(STEPS)
    return {**found, "not finite": str(error.value)}


@pytest.fixture(scope="module", params=["decoder-only", pytest.param("encoder-decoder", marks=pytest.mark.full)])
def results(request: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Results of a family by method, with one and two workers."""
    from pipelines.train.checks import token_settings

    output = tmp_path_factory.mktemp("output")
    rows, chance = label_rows(120), random.Random(0)
    for row in rows:
        share = chance.choice([1.0, 0.8, 0.6])
        row["soft_label"] = [{"label": row["gold"], "probability": share}, {"label": "1 + 1", "probability": 1 - share}]
    write_labels(output, rows)
    write_tops(output, rows)
    family = request.param
    make_model(family, output / family, positions=128)
    for method in METHODS:
        settings = token_settings(_run(output, family, method))
        tokenise(Store(str(output / "labels")), settings, Store(f"{output}/tokens/{family}/{method}"))
    return {world: run_workers(_train, world, str(output), family) for world in (1, 2)}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_reduces_each_term_of_its_loss(results: Any, method: str) -> None:
    found = results[2][method]
    terms = {
        "step-by-step": {"label", "rationale"}, "label-then-rationale": {"label", "rationale"},
        "rationale-then-label": {"text"}, "soft-label": {"label", "soft"},
        "token-kd": {"text", "divergence"},
    }.get(method, {"label"})  # fmt: skip
    assert set(found["before"]) == set(found["after"]) == terms
    for term in terms:
        assert found["after"][term] < found["before"][term], (term, found["before"], found["after"])


@pytest.mark.parametrize("method", METHODS)
def test_two_workers_match_one(results: Any, method: str) -> None:
    one, two = (results[world][method] for world in (1, 2))
    for mine, theirs in zip(one["history"], two["history"], strict=True):
        for term in set(TERMS) & set(mine):
            assert mine[term] == pytest.approx(theirs[term], rel=2e-3, abs=1e-4), term


@pytest.mark.parametrize("world", [1, 2])
def test_a_loss_that_is_not_finite_names_its_examples(results: Any, world: int) -> None:
    assert f"step {STEPS} is not finite" in results[world]["not finite"]
    assert "Its examples: sum-" in results[world]["not finite"]
