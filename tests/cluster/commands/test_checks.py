"""What commands refuse before Ray starts: nothing is written, and the one message comes first."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from pipelines.config.load import load_run
from tests.support import planned_runs
from tests.support.corpora import write_jsonl

LEAKY = "corpus.test: 4 of its 5 examples have the input of a training row"
NO_LOGPROBS = "learns the teacher's distributions over tokens, and teacher.token_logprobs is not set"
TOKEN_KD = {"student": {"model": "some/model", "method": "token-kd"}, "compare": {"methods": ["finetune", "token-kd"]}}
GONE = {"corpus": {"train": "train.jsonl", "test": "test.jsonl", "validation": "gone.jsonl"}}
HALF_GOLD = {"corpus": {"train": "half.jsonl"}}
NO_GOLD = {"corpus": {"train": "none.jsonl", "validation": 0.0}}
CLOSED = "http://127.0.0.1:9/v1"


class StartedError(Exception):
    """Ray would have been started, with nodes for the stages in `args`."""


@pytest.fixture(autouse=True)
def ray_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(run: Any, stages: list[str], **_: Any) -> None:
        raise StartedError(*stages)

    monkeypatch.setattr("cluster.session.start.ray_session", started)


def write_run(folder: Path, shared: int = 0, **sections: Any) -> str:
    """A run whose test set shares `shared` of its five inputs with train."""
    train = [{"id": f"t{i}", "input": f"question {i}", "label": "3"} for i in range(5)]
    test = [{"id": f"h{i}", "input": f"question {i if i < shared else 90 + i}", "label": "3"} for i in range(5)]
    run = {
        "name": "leaky", "output": str(folder / "out"), "task": "arithmetic", "teacher": {"engine": "echo"},
        "student": {"model": "some/model"},
        "corpus": {
            "train": write_jsonl(folder / "train.jsonl", train), "test": write_jsonl(folder / "test.jsonl", test), "validation": 0.0,
        },
    }  # fmt: skip
    for name, share in (("half", 2), ("none", 0)):
        write_jsonl(
            folder / f"{name}.jsonl", [row if i < share else {**row, "label": None} for i, row in enumerate(train)]
        )
    (folder / "run.yaml").write_text(yaml.safe_dump({**run, **sections}))
    return str(folder / "run.yaml")


@pytest.mark.parametrize("command", ["run", "compare", "plan"])
@pytest.mark.parametrize(("shared", "sections", "message"), [(4, {}, LEAKY), (0, TOKEN_KD, NO_LOGPROBS)])
def test_a_run_that_cannot_end_well_never_begins(
    tmp_path: Path, command: str, shared: int, sections: dict[str, Any], message: str
) -> None:
    done = CliRunner().invoke(main, [command, write_run(tmp_path, shared, **sections)])
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("commands", "sections", "message"),
    [
        ("run plan", HALF_GOLD, "student.labels: it learns gold labels, and 3 of the 5 rows have none. Set student.labels: gold to learn"),
        ("run", {**NO_GOLD, "student": {"model": "m", "labels": "gold"}}, "student.labels: it learns gold labels, and 5 of the 5"),
        ("compare", {**HALF_GOLD, "compare": {"gold_fractions": [0.5]}}, "Remove it from compare.methods; compare.gold_fractions"),
        ("compare", {**HALF_GOLD, "compare": {"methods": ["step-by-step"]}}, "compare.methods step-by-step: it learns gold labels, and 3"),
        ("run", {**NO_GOLD, "student": {"model": "m", "labels": "teacher"}}, "none of its rows has a gold label, and evaluation"),
        ("run label", {"teacher": {"engine": "openai", "model": "m", "remote": {"url": CLOSED}}}, "takes no connection"),
        ("run label", {"teacher": {"engine": "vllm", "model": "a/b"}}, "teacher.model a/b: it is not in the hub's cache"),
        ("run", {"student": {"model": "a/b"}}, "student.model a/b: it is not in the hub's cache"),
        ("run", {}, "/m: it cannot be opened"),
        ("run plan", GONE, "gone.jsonl"),
        ("compare", {"compare": {"students": ["a/b"]}}, "compare.students a/b: it is not in the hub's cache"),
    ],
)  # fmt: skip
def test_what_a_stage_lacks_is_refused_before_labelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: str, sections: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    run_file = write_run(tmp_path, **({"student": {"model": "./m"}} | sections))
    for command in commands.split():
        done = CliRunner().invoke(main, [command, run_file])
        assert (done.exit_code, message in done.output) == (2, True), done.output


def test_the_embedded_teacher_is_downloaded_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAYSTILL_CACHE", "UV_CACHE_DIR", "UV_OFFLINE"):
        monkeypatch.setenv(name, "1" if name == "UV_OFFLINE" else str(tmp_path))
    done = CliRunner().invoke(main, ["plan", write_run(tmp_path, student={"model": "embedded"})])
    assert (done.exit_code, "the embedded teacher cannot be downloaded: " in done.output) == (1, True), done.output


def test_the_corpus_is_warned_of_before_it_is_labelled(tmp_path: Path) -> None:
    rows = [{"id": "a", "input": f"{i}", "label": "x"} for i in range(30)]
    corpus = write_jsonl(tmp_path / "c.jsonl", [*rows, {"id": "b", "input": None}])
    run_file = write_run(tmp_path, task="classification", corpus={"train": corpus})
    warnings = [
        "1 of 31 rows cannot be read: field `input` is missing or null, must be text (first: c.jsonl, row 31)",
        "29 of 31 rows repeat an earlier id (first: c.jsonl, row 2)",
        "30 of 30 gold labels are 'x'",
        "task classification has neither task_options.instruction nor examples",
    ]
    for command in ("plan", "label"):
        done = CliRunner().invoke(main, [command, run_file])
        assert all(f"warning: {warning}" in done.output for warning in warnings), done.output


@pytest.mark.parametrize(("command", "shared"), [("run", 2), ("compare", 2), ("label", 4)])
def test_a_sound_run_starts_ray(tmp_path: Path, command: str, shared: int) -> None:
    done = CliRunner().invoke(main, [command, write_run(tmp_path, shared)])
    assert isinstance(done.exception, StartedError)


def test_nodes_are_requested_for_unfinished_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file = planned_runs.write_run(tmp_path)
    planned_runs.finish_labels(load_run(run_file))

    def nodes(command: str) -> Any:
        error = CliRunner().invoke(main, [command, run_file]).exception
        return error.args if isinstance(error, StartedError) else None

    assert [nodes(command) for command in ("label", "run", "compare")] == [None, *[("train", "evaluate")] * 2]
    monkeypatch.setattr("pipelines.compare.stage.is_finished", lambda run: True)
    assert nodes("compare") == ()


@pytest.mark.parametrize("command", ["label", "run", "compare"])
def test_artifacts_of_other_settings_are_refused(tmp_path: Path, command: str) -> None:
    run_file = planned_runs.write_run(tmp_path)
    planned_runs.finish_labels(load_run(run_file))
    done = CliRunner().invoke(main, [command, run_file, "--set", "corpus.limit=9"])
    assert (done.exit_code, "(corpus.limit: null -> 9)" in done.output) == (2, True), done.output


def test_evaluate_and_submit_check_the_run_first(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", write_run(tmp_path)])
    assert (done.exit_code, "no finished student" in done.output) == (2, True), done.output
    run_file = write_run(tmp_path, **TOKEN_KD)
    done = CliRunner().invoke(main, ["submit", run_file, "--stage", "run", "--address", "http://127.0.0.1:1"])
    assert (done.exit_code, NO_LOGPROBS in done.output) == (2, True), done.output
