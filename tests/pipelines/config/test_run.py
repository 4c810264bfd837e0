from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.config import TrainingConfig
from pipelines.config.load import apply_overrides, load_run, parse_run
from pipelines.errors import UserError
from pipelines.storage.cache_folder import embedded_model_folder

RECIPES = Path(__file__).parents[3] / "pipelines" / "recipes"
MINIMAL: dict[str, Any] = {
    "name": "a", "output": "out", "task": "arithmetic", "corpus": {"train": "train.jsonl"}, "teacher": {"engine": "echo"},
    "student": {"model": "m"},
}  # fmt: skip


def changed(**sections: Any) -> dict[str, Any]:
    return {**MINIMAL, **sections}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(MINIMAL))
    return tmp_path / "run.yaml"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (changed(studnt={}), "unknown key `studnt` (did you mean `student`?"),
        (changed(training={"epoch": 1}), "unknown key `training.epoch` (did you mean `epochs`?"),
        (changed(student={"model": "m", "lora": {"rnk": 8}}), "unknown key `student.lora.rnk` (did you mean `rank`?"),
        (changed(corpus={"train": "c.jsonl", "validation": 5}), "`corpus.validation`: must be a share from 0 to 1, such as 0.1, or a file"),
        (changed(training={"workers": "two"}), "`training.workers`: Input should be a valid integer (it is 'two')"),
        (changed(training={"steps": 500, "epochs": 3}), "`training`: epochs 3 and steps 500 are both set; remove one of them"),
        (changed(training={"epochs": None}), "neither epochs nor steps is set"),
        (changed(training={"seed": -1}), "`training.seed`: Input should be greater than or equal to 0 (it is -1)"),
        (changed(teacher={"engine": "vllm"}), "engine vllm needs `model`"),
        (changed(output=""), "`output`: String should have at least 1"),
        (changed(teacher={"engine": "replay"}), "engine replay needs `outputs`"),
        (changed(teacher={"engine": "replay", "outputs": "o", "filters": {"gold": "rationalise"}}), "has one answer per example"),
        (changed(teacher={"engine": "echo", "outputs": "x"}), "`outputs` has no effect"),
        (changed(teacher={"engine": "echo", "sampling": {"n": 3}}), "n 3 with temperature 0"),
        (changed(teacher={"engine": "echo", "replicas": {"min": 3, "max": 2}}), "min 3 is above max 2"),
        (changed(student={"model": "m", "method": "finetune", "labels": "teacher"}), "`labels` teacher has no effect with method finetune"),
        (changed(student={"model": "m", "method": "finetune", "labels": "gold-else-teacher"}), "finetune, which learns gold labels"),
        (changed(student={"model": "m", "init": {"kind": "pretrained", "layers": 2}}), "`layers` is for kind"),
        ({k: v for k, v in MINIMAL.items() if k != "corpus"}, "`corpus` is missing"),
    ],
)  # fmt: skip
def test_a_wrong_run_names_key_and_rule(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_run(tree)
    assert message in str(caught.value)


def test_a_resolved_run_is_the_same_run() -> None:
    """As a manifest records it."""
    training = parse_run(changed(training={"steps": 500})).training
    assert (training.steps, training.epochs) == (500, None), "steps replace the default epochs"
    assert TrainingConfig.model_validate(training.model_dump()) == training
    run = parse_run({key: value for key, value in MINIMAL.items() if key != "student"})
    assert not run.has_student, "enough for label"
    assert parse_run(run.model_dump()) == run
    with pytest.raises(UserError, match=r"`student.model` is missing"):
        parse_run(changed(student={"method": "finetune"}))


def test_one_message_has_every_problem() -> None:
    with pytest.raises(UserError, match=r"`name`.*`task`"):
        parse_run(changed(name="a/b", task=3))


def test_overrides_reach_their_section(file: Path) -> None:
    overrides = ["training.learning_rate=1e-4", "corpus.limit=5", "output=elsewhere"]
    run = load_run(file, [*overrides, "teacher.replicas={<<: {min: 1, max: 2}, max: 4}"])
    found = (run.training.learning_rate, run.corpus.limit, run.teacher.replicas.max, run.output)
    assert found == (1e-4, 5, 4, str(Path("elsewhere").absolute()))
    file.write_text(yaml.safe_dump(MINIMAL) + "training: {learning_rate: 1e-3}\n")
    assert load_run(file).training.learning_rate == 1e-3
    compare = "compare={methods: [finetune], search: {learning_rate: [5e-5, 2E-4], weight: [0.3, .7]}}"
    tree = apply_overrides(MINIMAL, [compare, "name=1e-4b"])
    assert (tree["compare"]["search"]["learning_rate"], tree["name"]) == ([5e-5, 2e-4], "1e-4b")
    with pytest.raises(UserError, match="the key `train` is given twice"):
        load_run(file, ["corpus={train: a, train: b}"])


def test_malformed_overrides_and_files_are_refused(file: Path) -> None:
    for override in ("corpus.limit", "=3", "corpus..limit=3", "name.x=3", "corpus.train=[", "corpus.nope=1"):
        with pytest.raises(UserError):
            load_run(file, [override])
    for content in ("", "- a\n- b\n", "a: [", "\x00"):
        file.write_text(content)
        with pytest.raises(UserError):
            load_run(file)


@pytest.mark.parametrize("recipe", [file.stem for file in sorted(RECIPES.glob("*.yaml"))])
def test_shipped_recipes_are_valid(recipe: str) -> None:
    assert load_run(RECIPES / f"{recipe}.yaml").name
    text, offer = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"), "\n  labels: gold\n  # labels: teacher "
    assert text.count(offer) == (recipe in ("svamp", "cqa", "anli", "esnli"))
    other = parse_run(yaml.safe_load(text.replace(offer, "\n  labels: teacher ")))
    assert offer not in text or other.student.label_column == "label"


def test_paths_are_relative_to_the_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a cluster run in another folder than the shell."""
    conf, here = tmp_path / "conf", str(tmp_path / "conf")
    (conf / "student").mkdir(parents=True)
    tree = changed(
        task="own.py",
        corpus={
            "train": ["a/*.jsonl", "s3://bucket/b.jsonl", "hf://openai/gsm8k/main:train"], "validation": 0.1, "test": "~/t.csv",
        },
        teacher={"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct", "shots": "../shots.jsonl"},
        student={"model": "student"},
        compare={"students": ["student", "./other", "google/t5-v1_1-base", "embedded"]},
        serving={"keys": {"file": "keys.txt"}},
    )  # fmt: skip
    (conf / "run.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    run = load_run("conf/run.yaml")
    assert run.task == f"{here}/own.py"
    assert run.corpus.train == [f"{here}/a/*.jsonl", "s3://bucket/b.jsonl", "hf://openai/gsm8k/main:train"]
    assert (run.corpus.validation, run.corpus.test) == (0.1, str(Path.home() / "t.csv"))
    assert (run.teacher.model, run.teacher.shots) == ("Qwen/Qwen2.5-7B-Instruct", f"{tmp_path}/shots.jsonl")
    assert run.student.model == f"{here}/student"
    others = ["google/t5-v1_1-base", str(embedded_model_folder())]
    assert run.compare.students == [f"{here}/student", f"{here}/other", *others]
    assert (run.output, run.serving.keys.file) == (f"{here}/out", f"{here}/keys.txt")
    overridden = load_run("conf/run.yaml", ["corpus={train: a.csv}", "student.model=./m"])
    assert (overridden.corpus.train, overridden.student.model) == (f"{tmp_path}/a.csv", f"{tmp_path}/m")
    assert overridden.output == run.output


@pytest.mark.parametrize(
    ("made", "key"), [("train.jsonl", "corpus.train"), ("out/labels/x", "output"), ("m/x", "student.model")]
)
def test_a_path_of_0_1_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, key: str) -> None:
    value = made.partition("/")[0]
    for folder in (tmp_path / made).parent, tmp_path / "conf":
        folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).touch()
    (tmp_path / "conf" / "run.yaml").write_text(yaml.safe_dump(MINIMAL))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_run("conf/run.yaml")
    assert caught.value.value == f"{key} {value}"
    assert f"{tmp_path}/conf/{value} does not exist" in caught.value.rule
    assert f"{tmp_path}/{value} does, which 0.1 used" in caught.value.rule
    load_run("conf/run.yaml", [f"{key}={value}"])


def test_an_endpoints_model_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    tree = changed(teacher={"engine": "openai", "model": "teacher", "remote": {"url": "https://host/v1"}})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert load_run("run.yaml").teacher.model == "teacher"


@pytest.mark.parametrize(
    ("training", "workers", "zero_stage"),
    [
        ({}, 1, 0), ({"offload": "optimizer"}, 1, 2), ({"workers": 3}, 3, 2), ({"placement": "spread"}, 2, 2),
        ({"min_workers": 2}, 2, 2), ({"gpus_per_worker": 1}, 2, 2), ({"gpus_per_worker": 1, "workers": 1}, 1, 0),
        ({"zero_stage": 2}, 1, 2),
    ],
)  # fmt: skip
def test_a_cpu_node_has_one_worker_without_zero(training: Any, workers: int, zero_stage: int) -> None:
    found = parse_run(changed(training=training)).training
    assert (found.workers, found.zero_stage) == (workers, zero_stage)
