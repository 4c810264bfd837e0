"""What the stages ask of Ray where a run wants GPUs. Ray's GPUs are numbers: it is told of one, and no CUDA is touched."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.config import EvaluationConfig
from pipelines.config.load import parse_run
from pipelines.label.stage import label
from pipelines.recipes.word_problems import train_rows
from pipelines.scoring.predict import PredictorPool, predict
from pipelines.students.decoding import Student
from tests.support.corpora import write_jsonl
from tests.support.local_ray import local_ray
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROWS = 300  # several blocks of 16, and a rest


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with local_ray(num_gpus=1):
            yield


def test_labelling_on_gpu_replicas_loses_and_doubles_no_row(one_gpu: None, tmp_path: Path) -> None:
    run = parse_run({
        "name": "slots",
        "output": str(tmp_path / "out"),
        "task": "arithmetic",
        "corpus": {"train": write_jsonl(tmp_path / "train.jsonl", train_rows(ROWS, seed=1))},
        "teacher": {"engine": "echo", "gpus_per_replica": 1, "latency_s": 0.01},
        "student": {"model": "none"},
    })  # fmt: skip
    counts = label(run).counts
    assert (counts["read"], counts["accepted"]) == (ROWS, ROWS)
    found = Counter(pq.read_table(tmp_path / "out/labels/data")["id"].to_pylist())
    assert (len(found), set(found.values())) == (ROWS, {1})


@dataclass(frozen=True)
class OnGpu:
    """A student that is asked for on a GPU, which an actor of Ray's has, and read on the CPU."""

    folder: str

    def load(self, device: str) -> Student:
        assert device == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        return Student.load(self.folder)


def test_a_gpu_goes_from_one_set_of_answerers_to_the_next(one_gpu: None, tmp_path: Path) -> None:
    """Cells of a comparison follow each other on the only GPU. Who has it answers alone: the second of each set never starts."""
    folder = str(write_student(tmp_path / "student", "decoder-only"))
    settings = EvaluationConfig(batch_size=2, max_new_tokens=4, gpus_per_worker=1, workers=2)
    alone = [decoded.text for decoded in Student.load(folder).answer(TEXTS, "label", 4)]
    for title in ("first", "second"):
        with PredictorPool(settings) as answerers:
            answers = predict(answerers.of(OnGpu(folder)), TEXTS, title)
        assert [answer.text for answer in answers] == alone
