from pathlib import Path

from pipelines.data.heldout import heldout_examples, is_validation
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import run_config, word_problem_rows, write_jsonl

TASK = load_task(task_spec("arithmetic"))
ROWS = word_problem_rows(200)


def test_validation_is_a_share_by_id_also_in_a_longer_corpus() -> None:
    ids = [f"id-{i}" for i in range(10_000)]
    assert 900 < sum(is_validation(i, 0.1) for i in ids) < 1100
    assert {i for i in ids if is_validation(i, 0.1)} <= {i for i in ids if is_validation(i, 0.2)}
    assert not any(is_validation(i, 0.0) for i in ids)


def test_heldout_examples_are_the_test_set_or_a_share_of_train(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ROWS)
    test = write_jsonl(tmp_path / "test.jsonl", [*ROWS[:3], ROWS[0], {"id": "bad"}, {**ROWS[3], "label": "some"}])
    found = heldout_examples(run_config(train=train, corpus={"test": test}), TASK)
    assert [e.id for e in found.examples] == ["r0", "r1", "r2"]
    assert [row_id for row_id, _ in found.unreadable] == ["bad", "r3"]
    assert found.duplicates == ("r0",)
    assert "gold label 'some' is not an arithmetic expression" in found.unreadable[1][1]
    share = heldout_examples(run_config(train=train, corpus={"validation": 0.2}), TASK)
    assert [e.id for e in share.examples] == [r["id"] for r in ROWS if is_validation(r["id"], 0.2)]
