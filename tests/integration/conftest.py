"""Fixtures of the integration tests: the embedded teacher and a small run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.corpora import shipped_rows, train_rows, write_jsonl
from tests.support.local_ray import local_ray
from tests.support.teacher_endpoint import KEY, Endpoint, running_endpoint, saying


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """The Ray of this process. Tests may kill its workers, not its own processes."""
    with local_ray():
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from a second thread of torch. On a busy machine it made them 30 times slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_file(tmp_path: Path, teacher_folder: Path) -> Path:
    """A run over 40 train and 12 held-out word problems, with the embedded teacher under vLLM."""
    train = write_jsonl(tmp_path / "train.jsonl", train_rows(40))
    test = write_jsonl(tmp_path / "test.jsonl", shipped_rows("word_problems/test", 12))
    run = {
        "name": "small",
        "output": str(tmp_path / "out"),
        "task": "arithmetic",
        "corpus": {"train": train, "test": test, "validation": 0.1},
        "teacher": {"engine": "vllm", "model": str(teacher_folder), "sampling": {"max_tokens": 48},
                    "vllm": {"max_model_len": 512, "max_num_seqs": 16}},
        "student": {"model": str(teacher_folder), "init": {"kind": "first-layers", "layers": 2}},
        "training": {"workers": 2, "precision": "fp32", "epochs": 2, "tokens_per_batch": 1024, "learning_rate": 1e-3},
        "evaluation": {"batch_size": 16, "max_new_tokens": 12},
        "serving": {"replicas": {"min": 1, "max": 1}},
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run, sort_keys=False))
    return file


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A remote teacher whose answers to arithmetic are right in form."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running_endpoint() as running:
        running.behaviour = saying("4 - 1 = 3. The answer is (4 - 1).")
        yield running
