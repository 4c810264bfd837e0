"""The recipes of the paper's experiment, unchanged, on a small corpus with the same columns and a tiny T5."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.heldout import is_validation
from pipelines.students.embedded_teacher import embedded_teacher
from tests.support.commands import raystill
from tests.support.corpora import shipped_rows, write_jsonl
from tests.support.tiny_runs import label_rows, make_model

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(1200)]

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"
NUM = 60
HELD_OUT = 0.3
SMALL = {
    "training.gpus_per_worker": "0", "training.workers": "1", "training.precision": "fp32", "training.steps": "null",
    "training.epochs": "1",
    "training.max_input_tokens": "100", "training.max_target_tokens": "100", "student.init.kind": "random",
    "evaluation.gpus_per_worker": "0", "compare.fractions": "[1.0]", "compare.seeds": "[0]", "corpus.validation": str(HELD_OUT),
}  # fmt: skip
# Without a search, each method is one training and all run. With a search, two methods suffice.
SEARCHED = {"compare.search.trials": "2", "compare.methods": "[finetune, step-by-step]"}
METHODS = {"finetune", "task-distillation", "step-by-step", "rationale-then-label"}


def svamp() -> list[dict[str, Any]]:
    return [{"id": row["id"], "input": row["input"], "label": row["gold"]} for row in label_rows(NUM)]


def cqa() -> list[dict[str, Any]]:
    places = ["basket", "river", "cloud", "box", "shop"]
    return [
        {"id": f"q{i}", "question": f"Where does Anne keep {i} apples?", "choices": places, "label": places[i % 5]}
        for i in range(NUM)
    ]


def pairs(name: str) -> list[dict[str, Any]]:
    return [{**row, name: f"p{i}"} for i, row in enumerate(shipped_rows("nli_pairs/train", NUM))]


@pytest.mark.parametrize(
    ("recipe", "rows", "id_column", "has_test"),
    [
        ("svamp", svamp(), "id", False),  # as shipped: scores the validation share
        ("cqa", cqa(), "id", False),
        ("anli", pairs("uid"), "uid", True),
        ("esnli", pairs("pairID"), "pairID", True),
    ],
)
def test_a_recipe_runs_on_a_small_substitute(
    tmp_path: Path, recipe: str, rows: list[dict[str, Any]], id_column: str, has_test: bool
) -> None:
    settings = {
        **SMALL, "output": str(tmp_path / "out"), "corpus.train": str(tmp_path / "train.jsonl"),
        "compare.students": f"[{make_model('encoder-decoder', tmp_path / 'tiny')}]",
    }  # fmt: skip
    train, test = (rows[: NUM - 20], rows[NUM - 20 :]) if has_test else (rows, [])
    write_jsonl(tmp_path / "train.jsonl", train)
    if has_test:
        settings |= {"corpus.test": write_jsonl(tmp_path / "test.jsonl", test), **SEARCHED}
    if recipe == "esnli":  # uses a live teacher
        settings |= {
            "teacher.model": str(embedded_teacher()), "teacher.gpus_per_replica": "0", "teacher.replicas.max": "1",
            "teacher.vllm.max_model_len": "2048", "teacher.vllm.max_num_seqs": "64", "teacher.filters.min_agreement": "0.0",
            "labelling.max_reject_share": "1.0",
        }  # fmt: skip
    else:
        answers = [{"id": row[id_column], "output": f"It is so. The answer is {row['label']}."} for row in rows]
        settings["teacher.outputs"] = write_jsonl(tmp_path / "outputs.jsonl", answers)
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = raystill("compare", str(RECIPES / f"{recipe}.yaml"), *changes)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/compare/report.json").read_text())
    scored = len(test) or sum(is_validation(row[id_column], HELD_OUT) for row in rows)
    methods = {"finetune", "step-by-step"} if has_test else METHODS
    found = {(group["method"], group["cells"][0]["total"]) for group in report["groups"]}
    assert found == {(method, scored) for method in methods}
    assert report["missing"] == []
    split = ("test", False) if has_test else ("validation", True)
    assert (report["heldout"]["split"], report["search"] is None) == split
    if recipe != "esnli":
        teacher = next(line for line in report["lines"] if line["name"] == "teacher")
        assert (teacher["correct"], teacher["total"]) == (scored, scored)
