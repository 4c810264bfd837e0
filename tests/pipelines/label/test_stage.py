"""The stage's own decisions: identity, checks before the start, the scan's rejects."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.label.identity import comparable_identity, label_identity
from pipelines.label.output.writer import LabelWriter
from pipelines.label.stage import check_label, label_decision
from pipelines.reuse import Action
from pipelines.storage.fingerprint import model_fingerprint
from pipelines.storage.lock import folder_lock
from pipelines.storage.store import Store
from tests.support.corpora import run_config, word_problem_rows, write_jsonl

LINE = {"question": "1 and 1?", "answer": "1 + 1 = 2. The answer is (1 + 1)."}


def run(folder: Path, teacher: dict[str, Any] | None = None, validation: float = 0.1) -> RunConfig:
    train = write_jsonl(folder / "train.jsonl", word_problem_rows(3))
    return run_config({"engine": "echo", **(teacher or {})}, train=train, corpus={"validation": validation})


def test_shots_belong_to_the_identity_and_are_checked_first(tmp_path: Path) -> None:
    def with_shots(*lines: object) -> RunConfig:
        return run(tmp_path, {"shots": write_jsonl(tmp_path / f"shots{len(lines)}.jsonl", lines)})

    runs = run(tmp_path), with_shots(LINE), with_shots(LINE, LINE)
    assert len({label_identity(one)["teacher"]["shots"] for one in runs}) == 3
    check_label(with_shots(LINE))
    with pytest.raises(UserError, match="line 3"):
        check_label(with_shots(LINE, LINE, "nonsense"))


def test_the_validation_split_matters_if_rows_are_rationalised(tmp_path: Path) -> None:
    def identity(gold: str, validation: float) -> dict[str, Any]:
        return label_identity(run(tmp_path, {"filters": {"gold": gold}}, validation))

    assert identity("keep", 0.1) == identity("keep", 0.2)
    assert "never_rationalised" not in identity("drop-disagreeing", 0.1)
    assert identity("rationalise", 0.1)["never_rationalised"] == 0.1
    assert identity("rationalise", 0.1) != identity("rationalise", 0.2)


def test_an_endpoints_model_is_a_name_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a folder here").mkdir()
    for engine, model in (("openai", "a folder here"), ("echo", None)):
        teacher = {"engine": engine, "model": model, "remote": {"url": "http://127.0.0.1/v1"}}
        assert label_identity(run(tmp_path, teacher))["teacher"]["model"] == model


def test_another_parser_makes_other_labels_except_of_0_1(tmp_path: Path) -> None:
    identity = label_identity(run(tmp_path))
    assert identity["task"]["parser"] == "2"
    task = {name: value for name, value in identity["task"].items() if name != "parser"}
    of_0_1 = {**identity, "task": task}
    assert comparable_identity(identity, of_0_1) == of_0_1
    older = {**identity, "task": {**task, "parser": "1"}}
    for found in (older, None, {}):  # {}: attempt.json is lost
        assert comparable_identity(identity, found) == identity


def test_any_changed_weight_makes_other_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that recorded both ends of large files stay valid."""
    monkeypatch.setattr("pipelines.storage.fingerprint._SAMPLED_BYTES", 16)  # 4 KiB are a large file
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "model/model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(9000))
    one = run(tmp_path, {"engine": "vllm", "model": str(weights.parent)})
    before, sampled = label_identity(one), model_fingerprint(str(weights.parent))
    earlier = {**before, "teacher": {**before["teacher"], "model": sampled}}
    assert comparable_identity(before, earlier, one.teacher.model) == earlier
    weights.write_bytes(bytes(4500) + b"x" + bytes(4499))
    assert model_fingerprint(str(weights.parent)) == sampled
    assert label_identity(one)["teacher"]["model"] != before["teacher"]["model"]


@pytest.mark.parametrize(
    ("before", "now", "changes", "action"),
    [
        (2, None, {}, Action.MAKE), (2, 3, {}, Action.MAKE), (2, 2, {}, Action.RESUME), (3, 2, {}, Action.REFUSE),
        (None, 2, {}, Action.REFUSE),
        (2, None, {"teacher": {"engine": "echo", "sampling": {"max_tokens": 9}}}, Action.REFUSE),
        (2, None, {"labelling": {"reuse": []}}, Action.REFUSE),
    ],
)  # fmt: skip
def test_labels_of_fewer_rows_are_taken_over(
    tmp_path: Path, before: int | None, now: int | None, changes: dict[str, Any], action: Action
) -> None:
    tree = {**run(tmp_path).model_dump(exclude_unset=True), "output": str(tmp_path / "out")}
    trial = RunConfig.model_validate({**tree, "corpus": {**tree["corpus"], "limit": before}})
    full = RunConfig.model_validate({**tree, "corpus": {**tree["corpus"], "limit": now}, **changes})
    with folder_lock(labels := Store(trial.output).child("labels"), 9.0) as check_lock:
        LabelWriter(labels, label_identity(trial), trial.labelling, None, check_lock)
    found = label_decision(full)
    assert (found.action, found.replaces) == (action, action is Action.MAKE)


@pytest.mark.parametrize(("reuse", "message"), [("nowhere", "holds no stored answers"), ("out", "the output of this")])
def test_outputs_without_texts_are_refused_at_once(tmp_path: Path, reuse: str, message: str) -> None:
    tree = {"output": str(tmp_path / "out"), "labelling": {"reuse": [str(tmp_path / reuse)]}}
    with pytest.raises(UserError, match=message):
        check_label(RunConfig.model_validate(run(tmp_path).model_dump() | tree))
