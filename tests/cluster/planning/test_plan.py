"""`raystill plan`, as the command: what it says, where its numbers come from, and that it starts nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers

from cluster.cli import main
from cluster.commands.stages import to_make
from cluster.planning.calibrate import calibration_run
from pipelines.config import RunConfig
from pipelines.config.load import load_run, parse_run
from pipelines.label.output.counts import Counts
from pipelines.label.output.writer import Commit
from pipelines.label.stage import label_identity
from pipelines.recipes.word_problems import test_rows as heldout_rows
from pipelines.recipes.word_problems import train_rows
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import manifest_of, read_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import load_task, task_spec
from pipelines.train.checks import train_identity
from tests.cluster.planning.test_estimate import QWEN_7B
from tests.support.corpora import write_jsonl

FIGURES = {
    "throughput": {"rows": 50, "seconds": 5.0, "replicas": 2.0, "rows_per_s": 10.0, "prompt_tokens_per_s": 2000.0,
                   "output_tokens_per_s": 300.0, "engine_busy_share": 0.9},
}  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A model folder without weights: its shape, and a tokenizer that takes each word for a token."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN_7B))
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.fixture
def run_file(tmp_path: Path, teacher: str) -> str:
    bad = [{"id": "bad", "input": None}]
    run = {
        "name": "small",
        "output": str(tmp_path / "out"),
        "task": "arithmetic",
        "corpus": {
            "train": write_jsonl(tmp_path / "train.jsonl", [*train_rows(50, seed=1), *bad]),
            "test": write_jsonl(tmp_path / "test.jsonl", heldout_rows(10, seed=1)),
        },
        "teacher": {"engine": "vllm", "model": teacher, "gpus_per_replica": 1, "replicas": {"min": 1, "max": 2},
                    "sampling": {"max_tokens": 100}},
        "student": {"model": teacher},
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return str(file)


def plan(run_file: str, *changes: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["plan", run_file, "--json", *(part for c in changes for part in ("--set", c))])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def finish_labels(run_file: str, **details: Any) -> None:
    """Labels that count as finished, of this very run."""
    run = load_run(run_file)
    store = Store(run.output).child("labels")
    store.write("data/part-000000.parquet", b"x" * 4000)
    counts = {"read": 51, "accepted": 40, "rejected": 11, "rejected_by_reason": {"tie": 11}}
    manifest = manifest_of("labels", label_identity(run), config=run.model_dump(), counts=counts, provenance={},
                           timings_s={"engine_start": 40.0},
                           details={"content": "0", "tally": Counts().as_json(), **details})  # fmt: skip
    write_manifest(store, manifest)


def finish_student(run: RunConfig) -> None:
    """A student that counts as finished, of this run and its labels."""
    output = Store(run.output)
    labels = read_manifest(output.child("labels"), "labels")
    assert labels
    identity = train_identity(run, load_task(task_spec(run.task)), labels)
    student = manifest_of("student", identity, config=run.model_dump(), counts={"train_examples": 36}, provenance={},
                          timings_s={"train": 60.0}, details={})  # fmt: skip
    write_manifest(output.child("student"), student)


def test_counts_and_tokens_come_from_the_corpus_and_the_tokenizer(run_file: str) -> None:
    found = plan(run_file)
    assert found["rows"] == {"train": 50, "heldout": 10, "unreadable": 1}
    tokens = found["tokens"]
    assert tokens["counted_with"].startswith("the teacher's tokenizer")
    assert len(found["prompts"]) == 2
    words = [len(text.split()) for text in found["prompts"]]
    assert min(words) >= tokens["histogram"]["edges"][0]
    assert max(words) <= tokens["prompt"]["max"] < tokens["histogram"]["edges"][-1]
    assert sum(tokens["histogram"]["counts"]) == tokens["rows_counted"] == 50
    assert tokens["prompt"]["total"] == round(60 * tokens["prompt"]["mean"])
    assert tokens["output_at_most"] == 60 * 100
    assert found["exists"]["label"]["state"] == "to be made"


def test_prompts_without_room_for_an_answer_are_foreseen(run_file: str) -> None:
    found = plan(run_file)
    middle = found["tokens"]["prompt"]["median"]
    tight = plan(run_file, f"teacher.vllm.max_model_len={100 + middle}")["tokens"]
    assert 0 < tight["too_long"] < 50
    assert found["tokens"]["too_long"] == 0


def test_without_a_tokenizer_tokens_are_called_an_estimate(run_file: str) -> None:
    found = plan(run_file, "teacher={engine: echo}")
    tokens = found["tokens"]
    assert tokens["counted_with"] == "an estimate of 4 characters a token"
    lengths = [round(len(prompt) / 4) for prompt in found["prompts"]]
    assert tokens["histogram"]["edges"][0] <= min(lengths) <= max(lengths) <= tokens["prompt"]["max"]


def test_a_rough_guess_is_called_one(run_file: str) -> None:
    found = plan(run_file)
    assert found["throughput"]["basis"] == "reference"
    assert found["throughput"]["source"].startswith("a rough guess: 20,639 output tokens/s")
    label = found["stages"]["label"]
    assert label["rows"] == 60
    assert label["seconds"] == pytest.approx(60 * 50 / found["throughput"]["output_tokens_per_s"] / 2 + 38)
    assert label["gpu_hours"] == pytest.approx(label["seconds"] * 2 / 3600)


def test_finished_labels_of_the_same_teacher_are_the_better_source(run_file: str) -> None:
    finish_labels(run_file, **FIGURES)
    found = plan(run_file, f"corpus.train={Path(run_file).parent}/test.jsonl")  # another corpus, the same teacher
    assert found["throughput"]["basis"] == "labels"
    assert found["throughput"]["rows_per_s"] == 5.0
    assert found["throughput"]["bytes_per_row"] == 100.0
    assert found["stages"]["label"]["seconds"] == pytest.approx(20 / 5 / 2 + 40)
    assert found["stages"]["label"]["output_tokens_per_row"] == 30.0
    assert found["exists"]["label"]["detail"].startswith("made with other settings or inputs: refused")

    other = plan(run_file, "teacher.sampling.max_tokens=50")
    assert other["throughput"]["basis"] == "reference"


def test_what_is_finished_is_reused_and_costs_nothing(run_file: str) -> None:
    finish_labels(run_file)
    found = plan(run_file)
    assert found["exists"]["label"]["reused"] is True
    assert found["stages"]["label"]["rows"] == 0
    assert found["stages"]["label"]["seconds"] == 0
    assert found["stages"]["train"]["seconds"] is None
    assert found["stages"]["train"]["source"].startswith("unknown")


def test_a_report_is_reused_where_the_student_was_asked_in_the_same_way(run_file: str) -> None:
    run = load_run(run_file)
    finish_labels(run_file)
    finish_student(run)
    student = read_manifest(Store(run.output).child("student"), "student")
    assert student is not None
    asked = {"max_new_tokens": run.evaluation.max_new_tokens, "samples": None}
    identity = {"answers": asked, "weights": [], "student": student.fingerprint}
    report = manifest_of("report", identity, config=run.model_dump(mode="json"), counts={"scored": 9}, timings_s={"total": 9.0},
                         details={}, provenance={})  # fmt: skip
    write_manifest(Store(run.output).child("report"), report)
    assert plan(run_file)["exists"]["evaluate"]["reused"] is True
    for other in ("evaluation.max_new_tokens=7", "evaluation.samples.n=5", "evaluation.weights=[int8]"):
        found = plan(run_file, other)["exists"]["evaluate"]
        assert (found["reused"], found["detail"]) == (False, "of other settings of evaluation: made anew"), other


def test_finished_labels_want_no_nodes_unless_rows_of_theirs_are_tried_again(run_file: str) -> None:
    run, stages = load_run(run_file), ("label", "train", "evaluate")
    assert to_make(run, stages) == ["label", "train", "evaluate"]
    finish_labels(run_file)
    assert to_make(run, stages) == ["train", "evaluate"]
    assert to_make(run, ("label",)) == []
    gone = load_run(run_file, ["corpus.train=gone.jsonl"])
    assert to_make(gone, ("train", "evaluate")) == ["train", "evaluate"], "without the corpus, as labels are there"
    assert to_make(run, ("train",)) == ["train"]
    finish_student(run)
    assert to_make(run, ("train",)) == to_make(run, ("label", "train")) == []
    other = load_run(run_file, ["training.learning_rate=1e-6"])
    assert to_make(other, ("train",)) == ["train"]
    finish_labels(run_file, tally=Counts(rejected=Counter(engine_error=3)).as_json())
    assert to_make(run, stages) == ["label", "train", "evaluate"]
    found = plan(run_file)
    assert found["stages"]["label"]["rows"] == 3
    assert "unless the rows that are tried again" in found["exists"]["train"]["detail"]


def test_rows_that_are_finished_are_not_asked_again(run_file: str) -> None:
    run = load_run(run_file)
    store = Store(run.output).child("labels")
    store.write("attempt.json", json.dumps({"fingerprint": fingerprint(label_identity(run))}).encode())
    store.write("commits/000000.json", Commit({}, Counts(accepted=25)).as_json())
    found = plan(run_file)
    assert found["exists"]["label"]["state"] == "interrupted"
    assert found["exists"]["label"]["detail"] == "25 rows are finished and are not asked again"
    assert found["stages"]["label"]["rows"] == 35

    other = plan(run_file, "teacher.sampling.max_tokens=50")
    assert other["exists"]["label"]["detail"] == "with other settings (25 rows): refused without --replace"
    assert other["stages"]["label"]["rows"] == 60


def test_training_time_is_scaled_from_a_student_with_the_same_settings(run_file: str) -> None:
    run = load_run(run_file)
    manifest = manifest_of("student", {}, config=run.model_dump(mode="json"), counts={"train_examples": 90},
                           timings_s={"train": 18.0}, details={}, provenance={})  # fmt: skip
    write_manifest(Store(run.output).child("student"), manifest)
    assert plan(run_file)["stages"]["train"]["seconds"] == pytest.approx(18.0 * (50 * 0.9) / 90)
    assert plan(run_file, "training.epochs=6")["stages"]["train"]["seconds"] == pytest.approx(18.0)
    assert plan(run_file, "training.workers=1")["stages"]["train"]["seconds"] is None


def test_in_words(run_file: str) -> None:
    options = ["--prompts", "1", "--set", "teacher.price={per_gpu_hour: 2.5}", "--set", "teacher.token_logprobs=5"]
    text = CliRunner().invoke(main, ["plan", run_file, *options]).stdout
    for piece in (
        "--- prompt 1\nQ: Anne has 4 apples",
        "rows        50 train, 10 held out, 1 that the task cannot read",
        "█",
        "from a rough guess: 20,639 output tokens/s measured with",
        "3,000 output tokens (50.0 a row, an assumption: 50% of sampling.n x max_tokens)",
        "with 2 replicas, 38 s of it engine start",
        "GPU-hours at 2.5",
        "of token_logprobs, before compression",
        "train       unknown: no student with these settings was trained here",
        "exists      label: to be made",
    ):
        assert piece in text, piece


@pytest.mark.parametrize("command", ["plan", "status"])
def test_nothing_heavy_is_loaded(run_file: str, command: str) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cluster.cli import main\n"
        f"result = CliRunner().invoke(main, [{command!r}, {run_file!r}])\n"
        "assert result.exit_code == 0, result.output\n"
        "print([m for m in ('ray', 'torch', 'vllm', 'transformers', 'deepspeed', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_calibration_asks_the_first_train_rows_alone(run_file: str, tmp_path: Path) -> None:
    run = load_run(run_file)
    trial = calibration_run(run, 7, str(tmp_path / "elsewhere"))
    assert (trial.corpus.limit, trial.corpus.test, trial.corpus.validation) == (7, None, 0.0)
    assert trial.output == str(tmp_path / "elsewhere")
    assert trial.teacher.sampling == run.teacher.sampling
    assert trial.teacher.replicas.max == 1
    assert parse_run(trial.model_dump()) == trial


def test_wrong_input_is_one_message(run_file: str) -> None:
    result = CliRunner().invoke(main, ["plan", run_file, "--set", "corpus.train=nowhere.jsonl", "--calibrate", "5"])
    assert result.exit_code == 2
    assert "nowhere.jsonl: there is no such file" in result.stderr
