"""`raystill plan`, as the command: its numbers, their sources, and the process that loads nothing heavy."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.planning.calibrate import _paid_answers_kept, calibration_run
from cluster.planning.corpus_sample import CorpusRows
from cluster.planning.model import Plan, RowSample
from cluster.planning.plan import make_plan
from pipelines.config import RunConfig
from pipelines.config.load import load_run, parse_run
from pipelines.data.heldout import is_validation
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.errors import StageFailedError, UserError
from pipelines.label.output.spending import Spending, used_tokens
from pipelines.label.teachers.base import NOTHING_USED, TokensUsed
from pipelines.label.teachers.echo import EchoTeacher
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import read_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, load_task, task_spec
from tests.support.corpora import train_rows
from tests.support.planned_runs import begin_labels, finish_labels, finish_report, finish_student, write_run
from tests.support.stored_answers import write_answers

RATES = {
    "throughput": {"rows": 50, "seconds": 5.0, "replicas": 2.0, "rows_per_s": 10.0, "prompt_tokens_per_s": 2000.0,
                   "output_tokens_per_s": 300.0, "engine_busy_share": 0.9},
}  # fmt: skip


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    return write_run(tmp_path)


def invoke(run_file: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["plan", run_file, *options])


def plan(run_file: str, *changes: str) -> Plan:
    result = invoke(run_file, "--json", *(part for change in changes for part in ("--set", change)))
    assert result.exit_code == 0, result.output
    return Plan.model_validate_json(result.stdout)


def rows_of(run: RunConfig) -> list[Example]:
    """The examples of `corpus.train`."""
    [split] = corpus_splits(corpus_files(run.corpus.train, "corpus.train"), "train")
    task = load_task(task_spec(run.task, run.task_options))
    return [row.example for row in read_split(split, task, {}) if row.example is not None]


def test_rows_and_tokens_are_counted(run_file: str) -> None:
    found = plan(run_file)
    assert found.rows.model_dump() == {"train": 50, "heldout": 10, "unreadable": 1, "sample": None}
    tokens = found.tokens
    assert tokens.counted_with.startswith("the teacher's tokenizer")
    assert len(found.prompts) == 2
    words = [len(text.split()) for text in found.prompts]
    assert min(words) >= tokens.histogram.edges[0]
    assert max(words) <= tokens.prompt.max < tokens.histogram.edges[-1]
    assert sum(tokens.histogram.counts) == tokens.rows_counted == 50
    assert tokens.prompt.total == round(60 * tokens.prompt.mean)
    assert (tokens.output_at_most, tokens.too_long) == (60 * 100, 0)
    tight = plan(run_file, f"teacher.vllm.max_model_len={100 + tokens.prompt.median}").tokens
    assert 0 < tight.too_long < 50, "prompts without room for the answer"
    without_tokenizer = plan(run_file, "teacher={engine: echo}")
    assert without_tokenizer.tokens.counted_with == "an estimate of 4 characters a token"
    lengths = [round(len(prompt) / 4) for prompt in without_tokenizer.prompts]
    assert max(lengths) <= without_tokenizer.tokens.prompt.max


def test_a_run_without_a_student_plans_label_alone(run_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its teacher is remote: a plan needs no key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    tree = yaml.safe_load(Path(run_file).read_text())
    del tree["student"]
    tree["teacher"] = {"engine": "openai", "model": "some", "remote": {"url": "http://127.0.0.1:9/v1"}}
    Path(run_file).write_text(yaml.safe_dump(tree))
    text = invoke(run_file)
    assert text.exit_code == 0, text.output
    assert "student     not planned: the run file has no student" in text.stdout.splitlines()
    assert "train:" not in text.stdout.rpartition("throughput")[2]
    found = plan(run_file)
    assert found.stages.label.rows == 60
    assert (found.exists.train.detail, found.exists.train.reused) == ("not planned: the run file has no student", False)
    lacks = {"train": "student.model: it is missing", "label": "OPENAI_API_KEY: this environment variable"}
    for command, message in lacks.items():
        refused = CliRunner().invoke(main, [command, run_file])
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    assert CliRunner().invoke(main, ["status", run_file]).exit_code == 0


def test_unmeasured_throughput_is_a_rough_guess(run_file: str) -> None:
    found = plan(run_file)
    label, rate = found.stages.label, found.throughput.output_tokens_per_s
    assert found.throughput.basis == "reference"
    assert label.rows == 60
    assert label.seconds == pytest.approx(60 * 50 / rate / 2 + 38)
    assert label.gpu_hours == pytest.approx(label.seconds * 2 / 3600)


def test_labels_of_the_same_teacher_give_its_throughput(run_file: str) -> None:
    finish_labels(load_run(run_file), **RATES)
    train = Path(run_file).with_name("train.jsonl")
    found = plan(run_file, f"corpus.train={train}", "corpus.limit=10", "corpus.validation=0.2")
    rate, label = found.throughput, found.stages.label
    assert (rate.basis, rate.rows_per_s, rate.bytes_per_row) == ("labels", 5.0, 100.0)
    assert (label.seconds, label.output_tokens_per_row) == (pytest.approx(20 / 5 / 2 + 40), 30.0)
    assert found.exists.label.detail == "made with other settings (corpus.limit: null -> 10): refused without --replace"
    assert plan(run_file, "teacher.sampling.max_tokens=50").throughput.basis == "reference"


def test_only_unfinished_work_is_planned(run_file: str) -> None:
    run = load_run(run_file)
    begin_labels(run, accepted=25)
    found = plan(run_file)
    assert found.exists.label.model_dump() == {
        "state": "interrupted", "reused": False, "detail": "25 rows are finished and kept", "rows_finished": 25,
        "rows_retried": 0,
    }  # fmt: skip
    assert found.stages.label.rows == 35
    assert plan(run_file, "teacher.sampling.max_tokens=50").stages.label.rows == 60
    finish_labels(run)
    found = plan(run_file)
    assert found.exists.label.reused
    assert (found.stages.label.rows, found.stages.label.seconds, found.stages.train.seconds) == (0, 0, None)
    finish_student(run)
    assert plan(run_file).stages.train.seconds == 0
    finish_labels(run, engine_errors=3)
    found = plan(run_file)
    assert (found.exists.label.reused, found.exists.label.rows_retried, found.stages.label.rows) == (True, 3, 3)
    assert found.exists.train.detail == "reused unless the retried rows change the labels"


def test_times_are_scaled_from_earlier_ones(run_file: str) -> None:
    run = load_run(run_file)
    finish_labels(run)
    finish_student(run)
    labels = Store(run.output).child("labels")
    manifest = read_manifest(labels, "labels")
    write_manifest(labels, manifest.model_copy(update={"fingerprint": "0" * 64}))  # so that the student is not reused
    assert plan(run_file).stages.train.seconds == pytest.approx(18.0 * (50 * 0.9) / 90)
    assert plan(run_file, "training.epochs=6").stages.train.seconds == pytest.approx(18.0)
    assert plan(run_file, "training.epochs=6", "training.fraction=0.5").stages.train.seconds == pytest.approx(9.0)
    by_steps = ("training.epochs=null", "training.steps=60")
    assert plan(run_file, *by_steps).stages.train.seconds == pytest.approx(36.0), "30 steps took 18 s"
    assert plan(run_file, "training.workers=2").stages.train.seconds is None
    finish_report(run)
    share = ("corpus.test=null", "corpus.validation=0.4")
    assert plan(run_file, *share).stages.evaluate.seconds == pytest.approx(9.0 * 20 / 9), "9 rows took 9 s"


def test_the_steps_of_a_training_are_estimated_from_its_rows(run_file: str) -> None:
    task = load_task(task_spec("arithmetic", {}))
    rows = [task.read(row) for row in train_rows(50)]
    prompts = sum(len(f"[label] {row.input}".split()) for row in rows)
    labels = 50 * len(["18", "/", "2"])
    # A rationale is assumed to have half of max_tokens.
    expected = {"finetune": prompts - 50 + labels, "step-by-step": 2 * prompts + labels + 50 * 50}
    few = ("training.tokens_per_batch=100", "training.epochs=2", "corpus.validation=0.1")
    for method, tokens in expected.items():
        found = plan(run_file, f"student.method={method}", *few).stages.train.steps
        assert found.steps == pytest.approx(2 * 0.9 * tokens / 100, rel=0.05), method
        assert "an estimate for 2 epochs" in found.source
    for steps, warned in ((299, True), (300, False)):
        text = invoke(run_file, "--set", "training.epochs=null", "--set", f"training.steps={steps}").stdout
        assert f"{steps} optimizer steps; training.steps" in text
        assert (f"warning: {steps} optimizer steps are few" in text) == warned


def test_plan_in_words(run_file: str) -> None:
    prices = ["--set", "teacher.price={per_gpu_hour: 2.5}", "--set", "teacher.token_logprobs=5"]
    text = invoke(run_file, "--prompts", "1", *prices).stdout
    for piece in (
        "--- prompt 1\nQ: Anne has 4 apples", "rows        50 train, 10 held out, 1 unreadable for the task", "█", "GPU-hours at 2.5",
        "scored      10 of 10 held-out rows have a gold label: an accuracy is known to ±26 points at worst (95%)",
        "3,000 output tokens (50.0 per row, an assumption: 50% of sampling.n x max_tokens)", "with 2 replicas, 38 s of it engine start",
        "of token_logprobs, before compression", "at most 274.2 GB of checkpoints",
        "train       unknown: no student", "exists      label: to be made; nothing exists",
    ):  # fmt: skip
        assert piece in text, piece
    assert "near_duplicates: null" not in text
    alone = invoke(run_file, "--config", "--set", "corpus.test=null", "--set", "corpus.validation=0.2").stdout
    assert "near_duplicates: null" in alone
    assert "rows        50 train, about 10 of them held out (corpus.validation 0.2)" in alone
    held_out = sum(is_validation(row["id"], 0.2) for row in train_rows(50))
    assert f"scored      {held_out} of {held_out} held-out rows have a gold label: an accuracy is known" in alone


@pytest.mark.parametrize("command", ["plan", "status"])
def test_command_loads_nothing_heavy(run_file: str, command: str) -> None:
    run = load_run(run_file)
    finish_labels(run)
    finish_student(run)  # so that the report's identity is computed too
    code = (
        f"from cluster.cli import main; main([{command!r}, {run_file!r}], standalone_mode=False); import sys\n"
        "print([m for m in ('ray', 'torch', 'vllm', 'transformers', 'deepspeed', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_comparison_has_a_budget_and_a_detectable_difference(run_file: str) -> None:
    assert plan(run_file).comparison is None, "the run file has no `compare`"
    options = ("training.steps=500", "compare.seeds=[0, 1, 2]", "compare.fractions=[1.0]")
    found = plan(run_file, *options).comparison
    # finetune, step-by-step and its shuffled rationales, with three seeds.
    assert (found.trainings, found.examples, found.budget) == (9, 10, "500 steps for each training")
    assert found.detectable > 0.2
    printed = invoke(run_file, *(part for option in options for part in ("--set", option))).output
    assert "compare     9 trainings, 500 steps for each training" in printed
    assert found.power.startswith("warning: 10 held-out examples and 3 seeds can show only differences of at least 67")


def test_calibration_asks_the_first_training_rows_alone(run_file: str, tmp_path: Path) -> None:
    run = load_run(run_file)
    trial = calibration_run(run, 7, str(tmp_path / "elsewhere"))
    assert (trial.labelling.reuse, trial.teacher.remote.batch) == ([], False), "it measures the teacher"
    assert (trial.corpus.limit, trial.corpus.test, trial.corpus.validation) == (7, None, 0.0)
    assert trial.output == str(tmp_path / "elsewhere")
    assert trial.teacher.sampling == run.teacher.sampling
    assert trial.teacher.replicas.max == 1
    assert parse_run(trial.model_dump()) == trial


def test_deadline_is_part_of_the_plan(run_file: str) -> None:
    capacity = Plan.model_validate_json(invoke(run_file, "--json", "--deadline", "45s").stdout).capacity
    assert (capacity.replicas, capacity.label.seconds <= 45) == (capacity.label.replicas, True)
    assert "deadline    45 s: " in invoke(run_file, "--deadline", "45s").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "corpus.train=nowhere.jsonl", "--calibrate", "5"], "nowhere.jsonl: there is no such file"),
        (["--deadline", "tomorrow"], "--deadline tomorrow: must be a duration above zero. Write 90min"),
    ],
)
def test_wrong_input_is_one_message(run_file: str, options: list[str], message: str) -> None:
    result = invoke(run_file, *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_a_sample_without_a_readable_row_is_refused(run_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = CorpusRows(unreadable=1000, sample=RowSample(read=1000, error=None))
    monkeypatch.setattr("cluster.planning.plan.corpus_rows", lambda *_, **__: sampled)
    with pytest.raises(UserError, match="can read none of a sample of its rows"):
        make_plan(load_run(run_file, ["corpus.limit=50"]), 0)


def test_rows_with_stored_answers_are_not_sent(run_file: str, tmp_path: Path) -> None:
    """Ten of 50 train rows have an answer, in unfinished labels of other settings."""
    run = load_run(run_file, ["teacher={engine: echo}"])
    write_answers(run, tmp_path / "out/labels", 0, rows_of(run)[40:])
    (tmp_path / "out/labels/attempt.json").write_text(json.dumps({"fingerprint": fingerprint({}), "identity": {}}))
    found = plan(run_file, "teacher={engine: echo}").stages.label
    assert (found.rows, found.rows_stored) == (50, 10)
    assert "10 rows take over stored answers" in invoke(run_file, "--set", "teacher={engine: echo}").stdout


def test_paid_answers_of_a_calibration_are_kept(run_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a calibration that fails. What they used counts in the budget, and so does what was used before."""
    teacher = "teacher={engine: openai, model: m, remote: {url: http://127.0.0.1:9/v1}, budget: {tokens: 9000}}"
    run, folder = load_run(run_file, [teacher]), tmp_path / "calibration"
    labels, trial = Store(str(tmp_path / "out/labels")), Store(str(folder / "labels"))
    Spending(labels, NOTHING_USED).add("a", TokensUsed(100, 20), (0, 0))
    with suppress(StageFailedError), _paid_answers_kept(run, str(folder)) as kept:
        assert (kept, used_tokens(trial, NOTHING_USED)) == (True, (100, 20, 0))
        rows = rows_of(run)[:10]
        write_answers(run, folder / "labels", 0, rows, EchoTeacher(run.teacher, load_task(task_spec(run.task))))
        Spending(trial, NOTHING_USED).add("a", TokensUsed(10, 5), (0, 0))
        raise StageFailedError("the budget is used up")
    found = plan(run_file, teacher).stages.label
    assert (found.rows, found.rows_stored, found.budget and found.budget.used) == (50, 10, 135)
