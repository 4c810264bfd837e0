"""Training options of the run file on Ray Train and real DeepSpeed, each with a tiny model."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StageFailedError
from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from tests.support.corpora import write_jsonl
from tests.support.gloo_processes import run_workers
from tests.support.local_ray import local_ray
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FAMILIES = ("decoder-only", "encoder-decoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {family: make_model(family, folder / family) for family in FAMILIES}


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{f"plain {family}": (family, {"zero_stage": 1}, {}) for family in FAMILIES},
    "adapters 2": ("decoder-only", {"zero_stage": 2}, {"lora": {"rank": 4, "alpha": 8.0}}),
    "adapters 3": ("encoder-decoder", {"zero_stage": 3}, {"lora": {"rank": 4, "alpha": 8.0}}),
    "adapters bf16": ("decoder-only", {"zero_stage": 2, "precision": "bf16"}, {"lora": {"rank": 4, "alpha": 8.0}}),
    **{f"offload {s}": ("decoder-only", {"zero_stage": s, "offload": "optimizer"}, {}) for s in (1, 2, 3)},
    "offload parameters": ("encoder-decoder", {"zero_stage": 3, "offload": "parameters"}, {}),
    **{f"compile {family}": (family, {"zero_stage": 1, "compile": True}, {}) for family in FAMILIES},
    "checkpointing": ("encoder-decoder", {"zero_stage": 2, "activation_checkpointing": True}, {}),
}
"""Name -> family and overrides of the sections `training` and `student`."""
STEPS = 8


def case_run(output: Path, name: str) -> Any:
    family, training, student = CASES[name]
    model = str(output / family)
    return make_run(output, model, training={"learning_rate": 1e-2, **training}, student={"model": model, **student})


def _train_cases(rank: int, world: int, output: str, weights: str, names: list[str]) -> dict[str, dict[str, Any]]:
    from pipelines.students.init import initial_student
    from pipelines.train.engine.export import write_weights
    from pipelines.train.engine.worker import Worker

    found = {}
    for name in names:
        run = case_run(Path(output), name)
        tokens = Tokens(Store(f"{output}/tokens/{CASES[name][0]}"), Path(output))
        worker = Worker(run, initial_student(run.student, 0)[0], tokens, rank, world)
        before = worker.validate()
        history = [worker.step(step)["loss"] for step in range(STEPS)]
        found[name] = {
            "before": before, "history": history, "difference": write_weights(worker, Store(f"{weights}/{name}")),
            "after": worker.validate(), "parameters": worker.parameters, "trained": worker.trained_parameters,
        }  # fmt: skip
    return found


def trained(folder: Path, models: dict[str, str], names: list[str]) -> tuple[dict[str, Any], Path, Path]:
    """(results by case with two workers, folder of the weights by case, output folder of the labels)."""
    from pipelines.train.checks import token_settings
    from pipelines.train.data.tokenise import tokenise

    output = folder / "output"
    write_labels(output, label_rows(60))
    for family in FAMILIES:
        shutil.copytree(models[family], output / family)
        settings = token_settings(case_run(output, f"plain {family}"))
        tokenise(Store(str(output / "labels")), settings, Store(f"{output}/tokens/{family}"))
    found = run_workers(_train_cases, 2, str(output), str(folder), names, compilers=True)
    return found, folder, output


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> tuple[dict[str, Any], Path, Path]:
    return trained(tmp_path_factory.mktemp("cases"), models, [n for n in CASES if not n.startswith("compile")])


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("offload", "checkpointing"))])
def test_what_saves_memory_changes_no_loss(cases: Any, name: str) -> None:
    found, _, _ = cases
    assert found[name]["history"] == pytest.approx(found[f"plain {CASES[name][0]}"]["history"], rel=1e-4)


@pytest.mark.full
def test_compiled_layers_change_no_loss(tmp_path: Path, models: dict[str, str]) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler for the CPU")
    names = [name for name in CASES if name.startswith(("plain", "compile"))]
    found, _, _ = trained(tmp_path, models, names)
    for family in FAMILIES:
        plain, compiled = (found[f"{kind} {family}"] for kind in ("plain", "compile"))
        assert compiled["history"] == pytest.approx(plain["history"], rel=1e-4), family
        assert compiled["after"] == pytest.approx(plain["after"], rel=1e-4), family


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("adapters")])
def test_adapters_are_trained_and_exported_as_plain_weights(cases: Any, name: str) -> None:
    """Losses of the merged weights in plain transformers, one sequence at a time, equal those with adapters."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from tests.support.reference_training import part_losses

    found, folder, output = cases
    case, family = found[name], CASES[name][0]
    assert case["trained"] < 0.6 * case["parameters"]
    assert case["difference"] < 1e-4
    for term in ("label", "rationale"):
        assert case["after"][term] < case["before"][term]
    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    model, loading = kind.from_pretrained(folder / name, dtype="float32", output_loading_info=True)
    assert not [*loading["missing_keys"], *loading["unexpected_keys"]]
    tokens = Tokens(Store(f"{output}/tokens/{family}"), output)
    label, rationale = part_losses(model.eval(), tokens, tokens.validation)
    # The losses with adapters are measured in the precision of the training.
    near = 2e-2 if name == "adapters bf16" else 1e-4
    assert {"label": label.item(), "rationale": rationale.item()} == pytest.approx(case["after"], rel=near)


@pytest.mark.full
def test_an_own_tokenizer_trains_despite_a_failing_tracker(
    ray_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.scoring.sources import Untrained
    from pipelines.students.decoding import Student
    from pipelines.train.stage import train
    from tests.support.tiny_students import tiny_model, tiny_tokenizer

    write_labels(tmp_path, label_rows(60))
    model = tmp_path / "model"
    tiny_tokenizer("decoder-only").save_pretrained(model)
    tiny_model("decoder-only", 5000).save_pretrained(model)
    student = {"model": str(model), "init": {"kind": "random", "vocabulary": 350}}
    training = {"epochs": 3, "max_input_tokens": 128, "max_target_tokens": 64, "tokens_per_batch": 2000,
                "tokens_per_micro_batch": 2000}  # fmt: skip
    run = make_run(tmp_path, str(model), student=student, training=training)
    (tmp_path / "tensorboard").write_text("in the way of the event files")
    manifest = train(run)
    assert "train: tensorboard is left out from here on (NotADirectoryError" in capsys.readouterr().err
    loss = manifest.details["training"]["loss"]["validation"]
    assert loss["after"]["label"] < loss["before"]["label"]
    opened = Student.load(tmp_path / "student")
    assert len(opened.tokenizer) <= 350
    assert opened.model.get_input_embeddings().num_embeddings == 384  # the next multiple of 64
    (answer,) = opened.answer(["Anne has 4 apples ."], "label", 4)
    untrained = Untrained(run.student, 0, 128, 64, str(tmp_path / "student")).load("cpu")
    assert untrained.answer(["Anne has 4 apples ."], "label", 4)[0].prompt_tokens == answer.prompt_tokens > 5


@pytest.mark.full
def test_a_validation_file_is_measured(ray_here: None, models: dict[str, str], tmp_path: Path) -> None:
    from pipelines.train.stage import train

    write_labels(tmp_path, label_rows(40))
    rows = [*label_rows(15, seed=5), *label_rows(3, seed=6)]
    examples = [{"id": row["id"], "input": row["input"], "label": row["gold"]} for row in rows]
    file = write_jsonl(tmp_path / "validation.jsonl", examples)
    corpus = {"train": "unused.jsonl", "validation": file}
    training = {"workers": 1, "validate_every_steps": 5, "epochs": 2}
    manifest = train(make_run(tmp_path, models["decoder-only"], corpus=corpus, training=training))
    counts, found = manifest.counts, manifest.details["training"]
    assert (counts["train_examples"], counts["validation_examples"]) == (40, 15)
    validation = found["loss"]["validation"]
    assert set(validation["after"]) == {"label"}, "a validation file has gold labels only"
    assert validation["after"]["label"] < validation["before"]["label"]
    assert manifest.identity["corpus"]["validation"] != file, "only the content of a file counts"
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert list(folder.iterdir())
    assert 0.0 <= found["padding_share"] < 0.5
    assert 0.0 <= found["data_wait_share"] < 1.0


def out_of_memory(config: dict[str, Any]) -> dict[str, Any]:
    """The training loop with a worker that runs out of memory in its third step."""
    import torch
    from ray import train as ray_train

    from pipelines.train.engine.loop import train_loop
    from pipelines.train.engine.worker import Worker

    attempts = Path(config["job"].run.output) / "attempts"
    forward = Worker._forward

    def failing(self: Any, micro: Any, scales: Any) -> Any:
        if self.engine.training and self.rank == 1 and self.engine.global_steps >= 2:
            with attempts.open("a") as file:
                file.write("x")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, micro, scales)

    if ray_train.get_context().get_world_rank() == 1:
        Worker._forward = failing  # type: ignore[method-assign]
    return train_loop(config)


@pytest.mark.full
def test_out_of_memory_is_one_error_with_remedies(
    ray_here: None, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.train import stage
    from pipelines.train.engine import trainer

    monkeypatch.setattr(trainer, "train_loop", out_of_memory)
    write_labels(tmp_path, label_rows(40))
    with pytest.raises(StageFailedError) as caught:
        stage.train(make_run(tmp_path, models["decoder-only"], training={"max_failures": 3}))
    message = str(caught.value)
    for setting in ("tokens_per_micro_batch", "zero_stage (now 2)", "activation_checkpointing: true"):
        assert setting in message
    assert (tmp_path / "attempts").read_text() == "x", "another attempt would fail in the same way"


@pytest.mark.full
def test_a_small_cluster_trains_with_fewer_workers(models: dict[str, str], tmp_path: Path) -> None:
    from pipelines.train.stage import train

    write_labels(tmp_path, label_rows(40))
    with local_ray(num_cpus=2):
        training = {"workers": 4, "min_workers": 1, "epochs": 1}
        manifest = train(make_run(tmp_path, models["decoder-only"], training=training))
    assert manifest.details["training"]["world_size"] in (1, 2)
