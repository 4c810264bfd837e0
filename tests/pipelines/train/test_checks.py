import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.config import RunConfig, TrainingConfig
from pipelines.errors import StageFailedError, UserError
from pipelines.reuse import Action
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.lock import folder_lock
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.students.content import hash_files
from pipelines.students.tokenizer_fingerprint import tokenizer_fingerprint
from pipelines.tasks import load_task, task_spec
from pipelines.train import checks, stage
from pipelines.train.begun import notices, record_begin, training_folder
from pipelines.train.checks import check_counts, check_gold, check_task, token_settings
from pipelines.train.data.token_table import TokenCounts
from pipelines.train.identity import identity_in_0_1, tokens_identity, train_identity
from pipelines.train.stage import check_train, train, train_decision, train_locked
from pipelines.train.tracking.services import check_trackers
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {family: make_model(family, folder / family) for family in ("decoder-only", "encoder-decoder")}


@pytest.fixture
def run(models: dict[str, str], tmp_path: Path) -> Callable[..., RunConfig]:
    return lambda **sections: make_run(tmp_path, models["decoder-only"], **sections)


@pytest.fixture
def labels(tmp_path: Path) -> Manifest:
    write_labels(tmp_path, label_rows(5))
    return require_manifest(Store(str(tmp_path / "labels")), "labels", "label")


def test_a_part_that_cannot_be_read_is_named(run: Callable[..., RunConfig], labels: Manifest, tmp_path: Path) -> None:
    part = tmp_path / "labels/data/part-00001.parquet"
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(UserError, match=r"part-00001.parquet: not Parquet"):
        check_train(run())


def counts(**changed: int) -> TokenCounts:
    sizes = {"train": 9, "validation": 2, "rationales": 9, "compared": 9, "widest": 50, "largest": 90, "too_long": 1}
    return TokenCounts(**{**sizes, "nothing_to_learn": 0, **changed})


@pytest.mark.parametrize(
    ("student", "terms", "column"),
    [
        ({}, ("label", "rationale"), "gold"),
        ({"method": "finetune"}, ("label",), "gold"),
        ({"labels": "teacher"}, ("label", "rationale"), "label"),
        ({"rationale_weight": 0.0}, ("label",), "gold"),
        ({"rationale_weight": 1.0}, ("rationale",), "gold"),
        ({"method": "token-kd", "soft_weight": 1.0}, ("divergence",), "label"),
    ],
)
def test_token_settings_follow_from_the_run(run: Any, student: Any, terms: Any, column: str) -> None:
    made = token_settings(run(student=student))
    assert (made.family, made.terms, made.label_column, made.validation_share) == ("decoder-only", terms, column, 0.2)
    assert token_settings(run(corpus={"validation": "b.jsonl"})).validation_share == 0.0


def test_a_prompt_that_the_model_cannot_read_is_refused(run: Any, models: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"prompt chat: the chat template of .*: missing\. Set student.prompt: plain"):
        token_settings(run(student={"prompt": "chat"}))
    with pytest.raises(UserError, match="is an encoder-decoder, and only decoder-only models read chats"):
        token_settings(run(student={"prompt": "chat", "model": models["encoder-decoder"]}))
    with pytest.raises(UserError, match=r"the sum of both is 65, .* has 64 positions"):
        token_settings(run(training={"max_input_tokens": 50, "max_target_tokens": 15}))
    relative = run(student={"model": models["encoder-decoder"]}, training={"max_input_tokens": 5000})
    assert token_settings(relative).family == "encoder-decoder", "T5's positions are relative, without a limit"


def test_missing_labels_are_refused(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run `raystill label RUN`"):
        check_train(run())
    write_labels(tmp_path / "none", label_rows(3, gold=False))
    without = Store(str(tmp_path / "none" / "labels"))
    with pytest.raises(UserError, match=r"student\.labels: .* 3 of 3 labelled examples have none\. Add gold labels"):
        check_gold(without, token_settings(run(student={"labels": "gold"})), leaves_out=True)
    with pytest.raises(UserError, match=r"method finetune: .* 3 of 3 .* Remove it from compare\.methods"):
        check_train(run(student={"method": "finetune"}), without.uri)
    write_labels(tmp_path, label_rows(7) + label_rows(3, gold=False))
    with pytest.raises(UserError, match=r"student\.labels: .* 3 of 10 .* have none\. Set student\.labels: gold to"):
        check_train(run())
    check_train(run(student={"labels": "teacher"}))
    for method in ("finetune", "step-by-step"):
        check_train(run(student={"method": method, "labels": "gold"}))
    check_gold(Store(str(tmp_path / "labels")), token_settings(run(student={"rationale_weight": 1.0})))


@pytest.mark.parametrize(
    ("details", "identity", "message"),
    [
        ({"name": "nli", "version": "2"}, {}, r"labels: they are for task nli 2, the run's is arithmetic \d"),
        ({"version": "0"}, {}, r"labels: they are for task arithmetic 0, the run's is arithmetic \d"),
        ({}, {"options": {"labels": ["a"]}}, "they were made with other task_options"),
    ],
)
def test_labels_of_another_task_are_refused(run: Any, labels: Any, details: Any, identity: Any, message: str) -> None:
    labels.identity["task"] = {"options": {}, "source": None}
    check_task(labels, run(), "labels")
    labels.details["task"] |= details
    labels.identity["task"] |= identity
    with pytest.raises(UserError, match=message + r".*raystill label RUN --replace"):
        check_task(labels, run(), "labels")


def test_a_changed_task_file_is_refused(run: Any, labels: Manifest, tmp_path: Path) -> None:
    from pipelines.label.identity import label_identity

    file = tmp_path / "own.py"
    file.write_text("from pipelines.tasks.arithmetic import Arithmetic\n\n\nclass Own(Arithmetic):\n    name = 'own'\n")
    (tmp_path / "train.jsonl").write_text('{"id": "a", "input": "one", "label": "1"}\n')
    own = run(corpus={"train": str(tmp_path / "train.jsonl")}).model_copy(update={"task": str(file)})
    labels.details["task"]["name"], labels.identity["task"] = "own", label_identity(own)["task"]
    check_task(labels, own, "labels")
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(UserError, match=r"another content of the task file .*own\.py"):
        check_task(labels, own, "labels")


FILE = {"corpus": {"train": "x", "validation": "v.jsonl"}}
EMPTY = {"train": 0, "nothing_to_learn": 5}
UNSPLIT = {"corpus": {"train": "x", "validation": 0.0}, "training": {"validate_every_steps": 5}}


@pytest.mark.parametrize(
    ("sections", "changed", "message"),
    [
        ({}, {"train": 0}, r"no example is left to train on .2 held out, 1 too long.\. Raise training\.max_input_tokens, "),
        ({}, {"train": 0, "too_long": 0}, r"Label more examples, or lower corpus\.validation"),
        ({"training": {"fraction": 0.01}}, {"train": 0, "too_long": 0}, r"Raise training\.fraction 0\.01"),
        ({}, {"validation": 0}, "corpus.validation 0.2: of 9 examples none is held out"),
        (FILE, {"validation": 0}, "corpus.validation v.jsonl: it has no readable row with a gold label"),
        (UNSPLIT, {"validation": 0}, "validate_every_steps: no example is held out for validation"),
        ({}, {"rationales": 0}, "method step-by-step: none of 9 examples has a rationale"),
        ({}, {"largest": 401}, "training.tokens_per_batch 400: it is below the 401 tokens that the largest example"),
        ({}, {"widest": 161}, "training.tokens_per_micro_batch 160: it is below the 161 tokens that the longest"),
        ({"student": {"method": "soft-label"}}, {"widest": 161}, "161 tokens that the widest example has, with all"),
        ({"student": {"method": "soft-label"}}, {"compared": 0}, "none of 9 examples has a distribution over several"),
        ({"student": {"method": "rationale-as-input"}}, EMPTY, "5 labelled examples hold nothing .* asks for rationale"),
        ({"student": {"rationale_weight": 1.0}}, EMPTY, r"that it learns from.*lower student\.rationale_weight"),
    ],
)  # fmt: skip
def test_unusable_token_counts_are_refused(run: Any, sections: Any, changed: Any, message: str) -> None:
    given = run(**sections)
    check_counts(counts(), given, token_settings(given))
    with pytest.raises(UserError, match=message):
        check_counts(counts(**changed), given, token_settings(given))


@pytest.mark.usefixtures("labels")
def test_more_rationales_than_the_labels_hold_are_refused(run: Any) -> None:
    several: Any = {"rationales": {"per_row": 3, "max_words": 9}}
    with pytest.raises(UserError, match=r"per_row 3: .* has one rationale for each row\. Label with .*n: 3 or more"):
        check_train(run(student=several))
    assert checks.rationale_notices(counts(), check_train(run(student={**several, "method": "finetune"}))) == []
    some = counts(unshared=2, long_rationales=4, rotating=1)
    found = checks.rationale_notices(some, token_settings(run(student=several)))
    assert [notice.partition(": ")[2] for notice in found] == [
        "2 of 9 training rows teach their label alone",
        "4 rationales have more than 9 words and are not learned",
        "1 of 9 training rows have several rationales to learn in turn",
    ]


def test_rows_left_out_and_few_or_large_steps_are_said(run: Any) -> None:
    some, gold = counts(nothing_to_learn=8), run(student={"labels": "gold"})
    expected = "student.labels: gold: 8 of 20 rows have no gold label and are left out"
    assert checks.left_out_notices(some, gold) == [expected]
    assert checks.left_out_notices(some, run()) == checks.left_out_notices(counts(), gold) == []
    few, large = checks.budget_warnings(counts(tokens=900), TrainingConfig(tokens_per_batch=1000))
    assert "3 optimizer steps are few" in few
    assert "tokens_per_batch 1,000: all 9 examples have 900 tokens, so that every step reads all of them" in large
    assert checks.budget_warnings(counts(tokens=900), TrainingConfig(tokens_per_batch=90, steps=300)) == []


@pytest.mark.parametrize(
    ("learns", "agreeing", "warned"),
    [("gold-else-teacher", 9, "of the other rows. Give a better teacher or prompt, or learn the 20 rows with gold alone"),
     ("teacher", 9, "the student learns its labels."),
     ("teacher", 10, ""), ("gold", 9, "")],
)  # fmt: skip
def test_labels_of_a_poor_teacher_are_warned_of(run: Any, labels: Any, learns: str, agreeing: int, warned: str) -> None:
    known = labels.model_copy(update={"counts": {"gold": {"with_gold": 20, "agreeing": agreeing}}})
    found = checks.teacher_warnings(known, run(student={"labels": learns}))
    assert (bool(found), warned in "".join(found)) == (bool(warned), True)


def test_identity_is_what_decides_the_student(run: Any, labels: Manifest, models: Any, tmp_path: Path) -> None:
    task = load_task(task_spec("arithmetic"))

    def of(**sections: dict[str, Any]) -> str:
        return fingerprint(train_identity(run(**sections), task, labels))

    for name, value in (
        ("max_failures", 9), ("checkpoint_every_steps", 3), ("workers", 5), ("zero_stage", 3), ("tokens_per_micro_batch", 99)
    ):  # fmt: skip
        assert of() == of(training={name: value}), "how a student is computed does not make it another"
    assert of() == of(student={"labels": "gold"}), "gold is the default"
    assert not {"rationales", "prompt"} & train_identity(run(), task, labels)["student"].keys(), "as 0.1 recorded it"
    few = {"rationales": {"share": 0.5}}
    assert of(student={"method": "finetune"}) == of(student={"method": "finetune", **few}), "not read"
    different = [
        of(), of(training={"seed": 1}), of(training={"precision": "bf16"}),
        *(of(training={"validate_every_steps": 3, "choose_by": by}) for by in ("label-loss", "accuracy")),
        of(corpus={"train": "x", "validation": 0.5}), of(student={"model": models["encoder-decoder"]}),
        of(student={"rationale_weight": 0.1}), of(student={"method": "finetune"}),
        of(student={"prompt": "chat"}), *(of(student={"rationales": one}) for one in ({"per_row": 2}, {"share": 0.5}, {"max_words": 9})),
        *(of(student={"method": "token-kd", "divergence": d}) for d in ("forward-kl", "reverse-kl", "jsd")),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    identity = train_identity(run(), task, labels)
    assert fingerprint(identity_in_0_1(identity)) != fingerprint(identity), "0.1 formed other steps"
    assert of(student={"method": "finetune", "rationale_weight": 0.1}) == of(student={"method": "finetune"})
    assert of(student={"method": "token-kd", "temperature": 3.0}) == of(student={"method": "token-kd"})
    moved = str(shutil.copytree(models["decoder-only"], tmp_path / "elsewhere"))
    elsewhere = train_identity(run(student={"model": moved}), task, labels)
    assert fingerprint(elsewhere) == of(), "the place of the model does not matter"
    assert str(tmp_path) not in str(elsewhere)


def test_cells_of_a_grid_share_tokens(run: Any, labels: Manifest) -> None:
    task = load_task(task_spec("arithmetic"))

    def of(method: str, **training: object) -> str:
        made = run(student={"method": method}, training=training)
        return fingerprint(tokens_identity(train_identity(made, task, labels), token_settings(made)))

    grid = [of(method, seed=seed) for method in ("finetune", "step-by-step") for seed in range(4)]
    assert len(set(grid)) == 2, "one table for each method"
    assert of("finetune", learning_rate=1e-5, epochs=7) == of("finetune")
    assert of("finetune", fraction=0.5) != of("finetune", fraction=0.5, seed=1), "another share of the rows"
    assert of("finetune", max_input_tokens=9) != of("finetune")


def test_trainings_that_share_tokens_share_no_checkpoints(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    training = Mock(side_effect=StageFailedError("stopped"))
    monkeypatch.setattr(stage, "_run_with_progress", training)
    write_labels(tmp_path, label_rows(40))
    for seed in (0, 1):
        with pytest.raises(StageFailedError):
            train_locked(run(training={"seed": seed}), tokens_at=Store(str(tmp_path / "shared")))
    jobs = [call.args[0] for call in training.call_args_list]
    assert len({job.tokens for job in jobs}) == 1
    assert {job.work.root for job in jobs} == {str(folder) for folder in (tmp_path / "training").iterdir()}
    assert len({job.best_weights(3).root for job in jobs}) == 2


def test_another_driver_in_the_output_is_refused(run: Any, labels: Manifest, tmp_path: Path) -> None:
    held = folder_lock(Store(str(tmp_path / "student")), 60.0, "train")
    with held, pytest.raises(UserError, match=r"student: another driver is training .*: process \d+ on .*Wait for it"):
        train(run())


def test_other_settings_leave_what_has_begun(run: Any, labels: Manifest, tmp_path: Path) -> None:
    output, task = Store(str(tmp_path)), load_task(task_spec("arithmetic", {}))

    def said(steps: int, *, replace: bool = False) -> tuple[Action, str, list[str]]:
        wanted = run(training={"steps": steps, "epochs": None})
        decision = train_decision(wanted, labels, replace=replace)
        return decision.action, decision.reason, list(notices(decision, output, train_identity(wanted, task, labels)))

    assert said(300) == (Action.MAKE, "nothing exists yet", [])
    identity = train_identity(run(training={"steps": 300, "epochs": None}), task, labels)
    record_begin(output, identity)
    assert said(300) == (Action.RESUME, "begun with the same settings and inputs", [])
    action, reason, lines = said(600)
    assert (action, "training.steps: 300 -> 600" in reason, len(lines)) == (Action.MAKE, True, 1)
    stays = r"stays in \S+/training/\w{12} \(training.steps: 300 -> 600\)\. This one begins at step 0"
    assert re.search(stays, lines[0])
    training_folder(output, identity).write("identity.json", b"{")
    assert "its identity.json is damaged" in said(600)[2][0]
    made = manifest_of("student", identity, config={}, counts={}, timings_s={}, details={}, provenance={})
    write_manifest(output.child("student"), made)
    training_folder(output, identity).clear()
    assert said(600)[0] is Action.REFUSE
    assert said(600, replace=True)[2] == [
        f"{tmp_path}/student was made with other settings (training.steps: 300 -> 600). "
        "It stays until the new student is exported, which replaces it"
    ]


@pytest.mark.parametrize(
    ("content", "replace", "action"),
    [("", 0, "resume"), ("cut", 0, "resume"), ("WEIGHTS", 0, "reuse"), ("WEIGHTS", 1, "make"), ("weights", 1, "reuse")],
)
def test_a_damaged_student_is_made_again(
    run: Any, labels: Any, tmp_path: Any, content: str, replace: Any, action: str
) -> None:
    student = Store(str(tmp_path / "student"))
    student.write("model.safetensors", b"weights")
    files = {name: file.model_dump() for name, file in hash_files(student).items()}
    identity = train_identity(run(), load_task(task_spec("arithmetic", {})), labels)
    made = manifest_of("student", identity, config={}, counts={}, timings_s={}, details={"files": files}, provenance={})
    write_manifest(student, made)
    student.delete("model.safetensors")
    if content:
        student.write("model.safetensors", content.encode())
    decision = train_decision(run(), labels, replace=replace)
    assert decision.action.value == action
    lines = list(notices(decision, Store(str(tmp_path)), identity))
    assert ["was damaged (model.safetensors" in line for line in lines] == [True] * (action != "reuse")


def test_token_kd_needs_token_logprobs_of_its_tokenizer(run: Any, labels: Manifest, models: dict[str, str]) -> None:
    kd = run(student={"method": "token-kd"})
    with pytest.raises(UserError, match=r"the labels hold none\. Label with teacher.token_logprobs"):
        check_train(kd)
    labels.details["tokenizer"] = "another"
    with pytest.raises(UserError, match="its tokenizer is not that of the teacher"):
        checks.check_token_logprobs(labels, kd)
    labels.details["tokenizer"] = tokenizer_fingerprint(models["decoder-only"])
    checks.check_token_logprobs(labels, kd)


@pytest.mark.usefixtures("labels")
def test_a_validation_file_must_fit_the_method(run: Any) -> None:
    measured: Any = {"validate_every_steps": 5}
    with pytest.raises(UserError, match=r"validate_every_steps: corpus\.validation is a file, .*rationale-then-label"):
        check_train(run(student={"method": "rationale-then-label"}, training=measured, **FILE))
    check_train(run(student={"method": "rationale-then-label"}, **FILE))
    with pytest.raises(UserError, match=r"choose_by accuracy: method rationale-then-label writes no label of its own"):
        check_train(run(student={"method": "rationale-then-label"}, training={**measured, "choose_by": "accuracy"}))
    check_train(run(training=measured, **FILE))


def test_trackers_without_package_or_settings_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.setenv(name, "")
    both = TrainingConfig(trackers=["mlflow", "wandb"])
    with pytest.raises(UserError, match="the environment has no MLFLOW_TRACKING_URI"):
        check_trackers(both)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    with pytest.raises(UserError, match="there is no key of Weights & Biases"):
        check_trackers(both)
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(both)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(UserError, match=r"training.trackers wandb: its package is not installed.*raystill\[wandb\]"):
        check_trackers(both)
