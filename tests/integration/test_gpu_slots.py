"""Predictor pools on one GPU that is declared to Ray; no CUDA is used."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.config import EvaluationConfig
from pipelines.scoring.predict import PredictRequest, predict
from pipelines.scoring.predictor import Query
from pipelines.students.decoding import Student
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class OnGpu:
    """A student whose actor holds a GPU slot and computes on the CPU."""

    folder: str
    dies_at: Path
    """A missing file: the first worker creates it and dies."""

    schedules = False

    def load(self, device: str) -> Student:
        assert device == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        if not self.dies_at.exists():
            self.dies_at.touch()
            os._exit(1)
        return Student.load(self.folder)


def test_predictor_pools_use_one_gpu_in_turn(ray_here: None, tmp_path: Path) -> None:
    """Cells of a comparison use the only GPU in turn. The first worker of the first pool dies; its restart waits for the GPU."""
    folder = str(write_student(tmp_path / "student", "decoder-only"))
    settings = EvaluationConfig(batch_size=2, max_new_tokens=4, gpus_per_worker=1, workers=2)
    alone = [decoded.text for decoded in Student.load(folder).answer(TEXTS, "label", 4)]
    source = OnGpu(folder, tmp_path / "died")
    for title in ("first", "second"):
        [predicted] = predict([PredictRequest(title, Query(source), TEXTS)], settings)
        assert [answer.text for (answer,) in predicted.answers] == alone
    assert (tmp_path / "died").exists()
