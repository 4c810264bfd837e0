"""The evaluate stage on real Ray with tiny students: one trained to a constant answer, and its untrained version."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.config import RunConfig
from pipelines.evaluate.previous_report import read_earlier
from pipelines.evaluate.stage import compare_with, evaluate
from pipelines.methods import prompt_of, read_answer
from pipelines.scoring.predict import PredictRequest, draws_of, predict
from pipelines.scoring.predictor import Query
from pipelines.scoring.sources import Source, Untrained
from pipelines.storage.store import MANIFEST
from pipelines.students.decoding import Student, encode_prompt, encode_target
from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student
from pipelines.students.init import initial_student
from pipelines.tasks import Example, load_task, task_spec
from tests.support import artifacts
from tests.support.artifacts import label_row, write_corpus, write_labels, write_student_manifest
from tests.support.tiny_students import tiny_model, tiny_tokenizer, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("one_thread")]

CONSTANT = "5 + 3"
NUM = 30
# Two thirds have the value 8; the lengths differ, so that batches by length change the order.
GOLDS = ["8" if i % 3 else "4 - 1" for i in range(NUM)]
INPUTS = [f"Tom has {i} pears{' and more' * (i * 7 % 5)}." for i in range(NUM)]
ROWS: list[dict[str, Any]] = [{"id": f"h{i}", "input": INPUTS[i], "label": GOLDS[i]} for i in range(NUM)]


def make_run(folder: Path, **sections: Any) -> RunConfig:
    """Students in transformers, which starts fastest. Other engines: test_scored_as_served.py."""
    evaluation = {"batch_size": 4, "max_new_tokens": 12, "engine": "transformers", **sections.pop("evaluation", {})}
    return artifacts.make_run(folder, evaluation=evaluation, **sections)


def _base(folder: Path) -> Path:
    """A model folder with random weights, for the untrained student."""
    tokenizer = tiny_tokenizer("decoder-only")
    tiny_model("decoder-only", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _teach_constant(run: RunConfig, folder: Path) -> None:
    """Train the initial student until it always answers CONSTANT, and save it."""
    import torch

    model, tokenizer = initial_student(run.student, run.training.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    target = encode_target(tokenizer, CONSTANT)
    method = run.student.method
    prompts = [encode_prompt(tokenizer, "decoder-only", prompt_of(method, "label", text)) for text in INPUTS]
    model.train()
    for step in range(150):
        prompt = prompts[step % NUM]
        learned = torch.tensor([[-100] * len(prompt) + target])
        loss = model(input_ids=torch.tensor([[*prompt, *target]]), labels=learned).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _prepare(folder: Path) -> RunConfig:
    run = make_run(folder, model=str(_base(folder / "base")))
    odd = [{"id": "open", "input": "No gold."}, {"id": "bad", "input": 7, "label": "?"}, {**ROWS[3], "label": "99"}]
    write_corpus(folder / "test.jsonl", [*ROWS, *odd])
    # The teacher is right on the first 10, wrong on the next 10 and silent on the rest. `3` leads in training.
    heldout = [label_row(f"h{i}", GOLDS[i] if i < 10 else "99", text=INPUTS[i]) for i in range(20)]
    training = [label_row(f"t{i}", "1", "3" if i < 4 else "7") for i in range(7)]
    labels = write_labels(folder / "out" / "labels", training, heldout)
    _teach_constant(run, folder / "out" / "student")
    write_student_manifest(folder / "out" / "student", run, labels)
    return run


def test_the_report_says_what_each_system_answers(tmp_path: Path, ray_here: None) -> None:
    run = _prepare(tmp_path)
    manifest = evaluate(run)
    folder = tmp_path / "out" / "report"
    found = json.loads((folder / "report.json").read_text())

    systems = {system["name"]: system for system in found["systems"]}
    correct = {name: (system["correct"], system["total"], system["unanswered"]) for name, system in systems.items()}
    assert correct["student"] == (20, 30, 0)
    assert correct["teacher"] == (10, 30, 10)
    assert correct["majority"] == (10, 30, 0)
    assert correct["untrained"][0] == 0
    assert systems["student"]["output_tokens"] >= NUM
    versus = {c["student_vs"]: (c["better"], c["worse"]) for c in found["comparisons"]}
    assert versus["majority"] == (20, 10)
    assert versus["untrained"] == (20, 0)
    problem = "the gold label '?' is not an arithmetic expression: unexpected '?'"
    assert found["heldout"] == {
        "split": "test", "scored": 30, "without_gold": {"count": 1, "ids": ["open"]}, "in_prompt": {"count": 0, "ids": []},
        "unreadable": {"count": 1, "ids": ["bad"], "problems": [{"id": "bad", "problem": problem}]},
        "duplicates": {"count": 1, "ids": ["h3"]}, "chosen_on": None,
        "trained_on": {"count": 0, "ids": [], "by": {"id": 0, "input": 0, "near": 0}},
    }  # fmt: skip
    assert 0.0 < systems["student"]["seconds_per_example"] * NUM < systems["student"]["seconds"]
    assert (found["rationale"]["of"], found["rationale"]["examples"]) == ("student", NUM)
    assert found["votes"] is found["baseline"] is None
    right = "A student of 123k parameters is right on 66.7% of 30 held-out examples; the majority label on 33.3%: "
    assert found["headline"].startswith(right)
    assert manifest.counts["correct"] == {name: system["correct"] for name, system in systems.items()}

    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"h{i}" for i in range(NUM)]
    assert {row["student_text"] for row in rows} == {CONSTANT}
    untrained = Student(*initial_student(run.student, 0), method="step-by-step", max_input_tokens=64)
    alone = [untrained.answer([text], "label", 12)[0].text for text in INPUTS[:6]]
    assert len(set(alone)) > 1, "answers must differ to detect a swap"
    assert [row["untrained_text"] for row in rows[:6]] == alone
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert found["headline"] in (folder / "report.md").read_text()
    assert found["headline"] in (folder / "report.html").read_text()

    assert evaluate(run) == manifest  # reused
    written_ns = (folder / MANIFEST).stat().st_mtime_ns
    before = read_earlier(str(folder), "arithmetic")
    compare_with(run, before)
    assert json.loads((folder / "report.json").read_text())["baseline"]["difference"] == 0.0
    changed = {"batch_size": 16, "max_new_tokens": 2, "samples": {"n": 3, "temperature": 0.2}}
    shorter = make_run(tmp_path, model=run.student.model, evaluation=changed)
    repeated = evaluate(shorter)
    assert repeated.fingerprint != manifest.fingerprint
    assert (folder / MANIFEST).stat().st_mtime_ns > written_ns
    assert repeated.counts["correct"]["student"] == 0  # two tokens are just `5`
    compare_with(shorter, before)
    found = json.loads((folder / "report.json").read_text())
    assert found["votes"] == {"n": 3, "temperature": 0.2, "agreement": pytest.approx(1.0, abs=0.1)}
    change = found["baseline"]
    assert (change["better"], change["worse"], change["same_examples"]) == (0, 20, True)
    assert "compared with the report of made" in (folder / "report.md").read_text()
    assert "Change since an earlier report" in (folder / "report.html").read_text()


@dataclass(frozen=True)
class Deadly:
    """A source that ends its process once."""

    source: Source
    marks: Path

    schedules = False

    def load(self, device: str) -> Student:
        number = len(list(self.marks.iterdir()))
        (self.marks / str(number)).touch()
        if not number:
            os._exit(1)
        return self.source.load(device)


@pytest.mark.full
def test_samples_do_not_depend_on_batches_or_dead_workers(tmp_path: Path, ray_here: None) -> None:
    run = make_run(tmp_path, model=str(_base(tmp_path / "base")))
    untrained = Untrained(run.student, 0, max_input_tokens=64, max_target_tokens=16)
    marks = tmp_path / "marks"
    marks.mkdir()
    found = []
    deadly: Source = Deadly(untrained, marks)
    for source, settings in ((deadly, {"batch_size": 7, "workers": 2}), (untrained, {"batch_size": 30})):
        sampled = {"max_new_tokens": 6, "samples": {"n": 2, "temperature": 1.0}, **settings}
        evaluation = make_run(tmp_path, evaluation=sampled).evaluation
        [drawn] = predict([PredictRequest("sampled", Query(source, draws=draws_of(evaluation)), INPUTS)], evaluation)
        found.append([[one.text for one in answers] for answers in drawn.answers])
    assert found[0] == found[1]
    assert sum(first != second for first, second in found[0]) > NUM // 2
    assert len(list(marks.iterdir())) > 1, "no worker died"


def test_other_weights_are_scored_beside_float32(tmp_path: Path, ray_here: None) -> None:
    student = tmp_path / "out" / "student"
    write_student(student, "encoder-decoder")
    evaluation = {"max_new_tokens": 6, "engine": "auto", "weights": ["int8", "bfloat16"]}
    run = make_run(tmp_path, model=str(student), evaluation=evaluation)
    write_corpus(tmp_path / "test.jsonl", ROWS)
    labels = write_labels(tmp_path / "out" / "labels", [label_row(f"t{i}", "1", "3") for i in range(4)])
    write_student_manifest(student, run, labels, family="encoder-decoder")
    evaluate(run)
    folder = tmp_path / "out" / "report"
    found = {entry["weights"]: entry for entry in json.loads((folder / "report.json").read_text())["weights"]}
    engines = {"int8": ("ctranslate2", NUM), "bfloat16": ("transformers", NUM)}
    assert {name: (entry["engine"], entry["total"]) for name, entry in found.items()} == engines
    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    int8 = Ctranslate2Student.open(student, weights="int8")
    task = load_task(task_spec(run.task, {}))
    for row in predictions[:6]:
        text, example = int8.answer([row["input"]], "label", 6)[0].text, Example(row["id"], row["input"], None)
        read, scored = read_answer("step-by-step", text, task, example), row["weights"][0]
        assert scored == {"weights": "int8", "label": read and read.label, "right": scored["right"]}
    for position, name in enumerate(("int8", "bfloat16")):
        same = [row["weights"][position]["label"] == row["student_label"] for row in predictions]
        assert found[name]["same_label"] == pytest.approx(sum(same) / NUM)
        assert found[name]["seconds_per_example"] > 0.0
    assert (tmp_path / "out" / "student-ctranslate2" / "converted.json").exists()
    assert "student in int8 (ctranslate2)" in (folder / "report.md").read_text()
