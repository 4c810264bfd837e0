"""Confidence of labels in whole texts: equal in evaluate on Ray and in the endpoint's real engines. Labels alone: test_scored_as_served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import EvaluationConfig
from pipelines.methods import METHODS, written_labels
from pipelines.scoring.predict import PredictRequest, predict
from pipelines.scoring.predictor import Query
from pipelines.scoring.sources import Trained
from pipelines.students.decoding import Decoded, Family, Student
from pipelines.tasks.base import Answer, Example
from pipelines.tasks.nli import NaturalLanguageInference
from tests.support.endpoints import endpoint_of, small
from tests.support.local_ray import local_ray
from tests.support.taught_students import teach_two
from tests.support.tiny_students import write_student

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600)]
TASK = NaturalLanguageInference()
TEXTS = ["premise: a hypothesis: b", "premise: 4 apples hypothesis: 2 apples"]
METHOD, PART = "rationale-then-label", METHODS["rationale-then-label"].answer
ENGINES: dict[Family, str] = {"encoder-decoder": "ctranslate2", "decoder-only": "vllm"}


def made(folder: Path, family: Family) -> Path:
    """A student that answers the first text with an uncertain label."""
    student = Student.load(write_student(folder, family, METHOD, "nli", width=256 if family == "decoder-only" else 64))
    teach_two(student, PART, TEXTS[0], *(TASK.render(Answer(label, "so 4.")) for label in ("neutral", "contradiction")))
    student.model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {family: made(root / family, family) for family in ENGINES}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[Any]:
    settings = small(engine="auto", max_new_tokens=48, max_batch_size=4, request_timeout_s=150.0)
    with local_ray(), endpoint_of(folders, settings) as found:
        found.timeout = 160.0
        yield found


@pytest.mark.parametrize("family", ENGINES)
def test_it_is_the_same_from_evaluate_and_from_the_endpoint(
    client: Any, folders: dict[str, Path], family: Family
) -> None:
    student = Student.load(folders[family])
    labels = [written_labels(METHOD, TASK, Example("", text, None)) for text in TEXTS]
    expected = student.answer(TEXTS, PART, 48, labels=labels)
    check_confidence_matters(expected, student.answer(TEXTS, PART, 48))
    settings = EvaluationConfig(max_new_tokens=48, batch_size=2)
    [evaluated] = predict([PredictRequest("student", Query(Trained(str(folders[family]))), TEXTS, labels)], settings)
    response = client.post("/v1/predict", json={"model": family, "inputs": TEXTS})
    assert response.status_code == 200, response.text
    served = response.json()["predictions"]
    assert served[0]["label"] == "neutral"
    wanted = [one.confidence for one in expected]
    assert [one.confidence for (one,) in evaluated.answers] == pytest.approx(wanted, rel=1e-4)
    assert [one["confidence"] for one in served] == pytest.approx(wanted, rel=1e-3)
    engines = {one["id"]: one["engine"] for one in client.get("/v1/models").json()["data"]}
    assert engines[family] == ENGINES[family]


def check_confidence_matters(constrained: list[Decoded], free: list[Decoded]) -> None:
    assert "neutral" in constrained[0].text
    assert 0.4 < constrained[0].confidence < 0.95
    assert constrained[0].confidence > free[0].confidence * 1.005
