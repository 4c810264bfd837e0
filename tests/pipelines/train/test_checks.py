"""What the train stage refuses, and what makes two trainings different ones."""

from __future__ import annotations

import importlib.util

import pytest

from pipelines.config import TrainingConfig
from pipelines.errors import UserError
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import require_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import load_task, task_spec
from pipelines.train.checks import (
    check_counts,
    check_gold,
    check_task,
    check_trackers,
    token_settings,
    train_identity,
)
from pipelines.train.data.token_table import TokenCounts
from pipelines.train.stage import check_train
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {family: make_model(family, folder / family) for family in ("decoder-only", "encoder-decoder")}


def counts(**changed):
    return TokenCounts(
        **(
            {
                "train": 9,
                "validation": 2,
                "too_long": 1,
                "nothing_to_learn": 0,
                "rationales": 9,
                "compared": 9,
                "widest": 50,
                "largest": 90,
            }
            | changed
        )
    )


def test_settings_follow_from_the_run(models, tmp_path):
    settings = token_settings(make_run(tmp_path, models["encoder-decoder"]))
    assert (settings.family, settings.terms, settings.label_column) == (
        "encoder-decoder",
        ("label", "rationale"),
        "gold",
    )
    assert settings.validation_share == 0.2
    model = models["decoder-only"]
    tuned = token_settings(make_run(tmp_path, model, student={"model": model, "method": "finetune"}))
    assert (tuned.family, tuned.terms, tuned.label_column) == ("decoder-only", ("label",), "gold")
    taught = token_settings(make_run(tmp_path, model, student={"model": model, "labels": "teacher"}))
    assert taught.label_column == "label"
    file = make_run(tmp_path, model, corpus={"train": "a.jsonl", "validation": "b.jsonl"})
    assert token_settings(file).validation_share == 0.0


@pytest.mark.parametrize(("weight", "parts"), [(0.0, ("label",)), (1.0, ("rationale",))])
def test_a_part_that_weighs_nothing_is_not_trained(models, tmp_path, weight, parts):
    model = models["decoder-only"]
    run = make_run(tmp_path, model, student={"model": model, "rationale_weight": weight})
    assert token_settings(run).terms == parts


def test_more_tokens_than_positions(models, tmp_path):
    run = make_run(tmp_path, models["decoder-only"], training={"max_input_tokens": 50, "max_target_tokens": 15})
    with pytest.raises(UserError, match=r"the sum of both is 65, .* has 64 positions"):
        token_settings(run)
    # T5's positions are relative: it has no limit.
    token_settings(make_run(tmp_path, models["encoder-decoder"], training={"max_input_tokens": 5000}))


def test_missing_gold_labels_are_counted(models, tmp_path):
    write_labels(tmp_path, label_rows(7) + label_rows(3, gold=False))
    model = models["decoder-only"]
    with pytest.raises(UserError, match="3 of 10 labelled examples have none"):
        check_train(make_run(tmp_path, model))
    with pytest.raises(UserError, match=r"method finetune: .* 3 of 10"):
        check_train(make_run(tmp_path, model, student={"model": model, "method": "finetune"}))
    check_train(make_run(tmp_path, model, student={"model": model, "labels": "teacher"}))


def test_labels_are_needed(models, tmp_path):
    with pytest.raises(UserError, match="Run `raystill label`"):
        check_train(make_run(tmp_path, models["decoder-only"]))


@pytest.mark.parametrize(
    ("made_for", "made_with", "message"),
    [
        ({"name": "nli", "version": "2"}, None, r"labels: they are for task nli 2, the run's is arithmetic \d"),
        ({"version": "0"}, None, r"labels: they are for task arithmetic 0, the run's is arithmetic \d"),
        ({}, {"options": {"labels": ["a"]}, "source": None}, "they were made with other task_options"),
        ({}, {"options": {}, "source": "ab"}, "they were made with another content of the task file arithmetic"),
        ({}, {"options": {}, "source": None}, None),
    ],
)
def test_labels_of_another_task_are_refused(models, tmp_path, made_for, made_with, message):
    write_labels(tmp_path, label_rows(5))
    store = Store(str(tmp_path / "labels"))
    manifest = require_manifest(store, "labels", "label")
    manifest.details["task"] |= made_for
    if made_with is not None:
        manifest.identity["task"] = made_with
    write_manifest(store, manifest)
    run = make_run(tmp_path, models["decoder-only"])
    if message is None:
        check_train(run)
    else:
        with pytest.raises(UserError, match=message + r".*raystill label RUN --replace"):
            check_train(run)


def test_the_source_of_a_task_file_is_known_by_its_hash_as_the_labels_keep_it(models, tmp_path):
    from pipelines.label.stage import label_identity

    file = tmp_path / "own.py"
    file.write_text("from pipelines.tasks.arithmetic import Arithmetic\n\n\nclass Own(Arithmetic):\n    name = 'own'\n")
    (tmp_path / "train.jsonl").write_text('{"id": "a", "input": "one", "label": "1"}\n')
    run = make_run(tmp_path, models["decoder-only"], corpus={"train": str(tmp_path / "train.jsonl")})
    run = run.model_copy(update={"task": str(file)})
    write_labels(tmp_path, label_rows(5))
    manifest = require_manifest(Store(str(tmp_path / "labels")), "labels", "label")
    manifest.details["task"]["name"] = "own"
    manifest.identity["task"] = label_identity(run)["task"]
    check_task(manifest, run, "labels")
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(UserError, match=r"another content of the task file .*own\.py"):
        check_task(manifest, run, "labels")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": 0}, "no example is left to train on .2 held out, 1 too long"),
        ({"validation": 0}, "corpus.validation 0.2: of 9 examples none is held out"),
        ({"rationales": 0}, "none of 9 examples has a rationale"),
        ({"largest": 401}, "training.tokens_per_batch 400: it is below the 401 tokens"),
        ({"widest": 161}, "training.tokens_per_micro_batch 160: it is below the 161 tokens"),
    ],
)
def test_what_no_training_can_be_made_of(models, tmp_path, changed, message):
    run = make_run(tmp_path, models["decoder-only"])
    settings = token_settings(run)
    check_counts(counts(), run, settings)
    with pytest.raises(UserError, match=message):
        check_counts(counts(**changed), run, settings)


def test_identity(models, tmp_path):
    write_labels(tmp_path, label_rows(8))
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "label")
    task, model = load_task(task_spec("arithmetic")), models["decoder-only"]

    def of(**sections):
        return fingerprint(train_identity(make_run(tmp_path, model, **sections), task, labels))

    assert of() == of()
    for how in (
        {"max_failures": 9},
        {"checkpoint_every_steps": 3},
        {"workers": 5},
        {"zero_stage": 3},
        {"tokens_per_micro_batch": 99},
    ):
        assert of() == of(training=how), "how a student is computed does not make it another"
    assert of() == of(student={"model": model, "labels": "gold"}), "gold is what labels means where it is not set"
    different = [
        of(), of(training={"seed": 1}), of(training={"precision": "bf16"}), of(training={"validate_every_steps": 3}),
        of(corpus={"train": "x", "validation": 0.5}), of(student={"model": models["encoder-decoder"]}),
        of(student={"model": model, "rationale_weight": 0.1}), of(student={"model": model, "method": "finetune"}),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    tuned = [of(student={"model": model, "method": "finetune", "rationale_weight": w}) for w in (0.1, 0.9)]
    assert tuned[0] == tuned[1], "finetuning has no rationale loss to weigh"
    kd = {"model": model, "method": "token-kd"}
    assert of(student=kd) == of(student={**kd, "temperature": 3.0}), "temperature is of soft-label"
    assert len({of(student={**kd, "divergence": d}) for d in ("forward-kl", "reverse-kl", "jsd")}) == 3


def test_identity_does_not_know_where_the_model_lies(models, tmp_path):
    import shutil

    write_labels(tmp_path, label_rows(8))
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "label")
    task, moved = load_task(task_spec("arithmetic")), tmp_path / "elsewhere"
    shutil.copytree(models["decoder-only"], moved)
    identities = [train_identity(make_run(tmp_path, m), task, labels) for m in (models["decoder-only"], str(moved))]
    assert fingerprint(identities[0]) == fingerprint(identities[1])
    assert str(tmp_path) not in str(identities)


def test_gold_is_not_asked_for_where_no_label_is_trained(models, tmp_path):
    write_labels(tmp_path, label_rows(5, gold=False))
    model = models["decoder-only"]
    settings = token_settings(make_run(tmp_path, model, student={"model": model, "rationale_weight": 1.0}))
    check_gold(Store(str(tmp_path / "labels")), settings)


def test_token_kd_needs_distributions_over_the_tokens_of_the_student(models, tmp_path):
    from pipelines.storage.manifest import Manifest
    from pipelines.students.tokenizer_fingerprint import tokenizer_fingerprint

    write_labels(tmp_path, label_rows(5))
    model = models["decoder-only"]
    run = make_run(tmp_path, model, student={"model": model, "method": "token-kd"})
    with pytest.raises(UserError, match=r"the labels hold none\. Label with teacher.token_logprobs"):
        check_train(run)
    store = Store(str(tmp_path / "labels"))
    manifest = require_manifest(store, "labels", "label")

    def written(tokenizer: str) -> Manifest:
        manifest.details["tokenizer"] = tokenizer
        write_manifest(store, manifest)
        return manifest

    written("another")
    with pytest.raises(UserError, match="its tokenizer is not that of the teacher"):
        check_train(run)
    written(tokenizer_fingerprint(model))
    check_train(run)


def test_a_method_that_finds_nothing_to_learn_says_where_to_get_it(models, tmp_path):
    model = models["decoder-only"]
    run = make_run(tmp_path, model, student={"model": model, "method": "rationale-as-input"})
    with pytest.raises(UserError, match=r"5 labelled examples hold nothing that it learns from.*asks for rationales"):
        check_counts(counts(train=0, nothing_to_learn=5), run, token_settings(run))


def test_soft_labels_need_several_labels_and_validation_needs_examples(models, tmp_path):
    model = models["decoder-only"]
    soft = make_run(tmp_path, model, student={"model": model, "method": "soft-label"})
    check_counts(counts(), soft, token_settings(soft))
    with pytest.raises(UserError, match="none of 9 examples has a distribution over several labels"):
        check_counts(counts(compared=0), soft, token_settings(soft))
    measured = make_run(tmp_path, model, corpus={"train": "x", "validation": 0.0}, training={"validate_every_steps": 5})
    with pytest.raises(UserError, match="no example is held out for validation"):
        check_counts(counts(validation=0), measured, token_settings(measured))
    lone = make_run(tmp_path, model, student={"model": model, "rationale_weight": 1.0})
    with pytest.raises(UserError, match=r"hold nothing that it learns from.*lower student\.rationale_weight"):
        check_counts(counts(train=0, nothing_to_learn=5), lone, token_settings(lone))


def test_a_validation_file_that_cannot_measure_the_method_is_refused_before_anything_is_tokenised(models, tmp_path):
    write_labels(tmp_path, label_rows(5))
    model = models["decoder-only"]

    def run(method, **training):
        corpus = {"train": "x", "validation": "v.jsonl"}
        return make_run(tmp_path, model, corpus=corpus, student={"method": method}, training=training)

    with pytest.raises(UserError, match=r"validate_every_steps: corpus\.validation is a file, .*rationale-then-label"):
        check_train(run("rationale-then-label", validate_every_steps=5))
    check_train(run("rationale-then-label"))
    check_train(run("step-by-step", validate_every_steps=5))


def test_trackers_that_cannot_be_told_anything_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
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
