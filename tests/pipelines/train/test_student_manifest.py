import json
from pathlib import Path
from typing import Any

from pipelines.config import FiltersConfig
from pipelines.config.load import parse_run
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.details import LabelsProvenance, StudentDetails
from pipelines.train.model_card import model_card
from pipelines.train.student_manifest import labels_provenance
from tests import integration
from tests.support.tiny_runs import label_rows, make_run, write_labels

STUDENT = Path(integration.__path__[0], "artifacts_0_1/student_finished/out/student")
MANIFEST = json.loads((STUDENT / "manifest.json").read_text())
DETAILS, LABELS = MANIFEST["details"], MANIFEST["provenance"]["labels"]


def card(run: Any, details: dict[str, Any] = DETAILS, **labels: Any) -> str:
    provenance = LabelsProvenance.model_validate(LABELS | labels)
    counts, versions = MANIFEST["counts"], MANIFEST["versions"]
    return model_card(run, StudentDetails.model_validate(details), provenance, counts, versions)


def test_details_are_written_as_they_were_read() -> None:
    best = {"step": 9, "objective": 1.0, "terms": {"label": 1.0}}
    loss = DETAILS["training"]["loss"]
    measured = loss["validation"] | {"during": [{"step": 9, "objective": 1.0, "label": 1.0}], "best": best}
    for details in (DETAILS, DETAILS | {"training": DETAILS["training"] | {"loss": loss | {"validation": measured}}}):
        assert json.dumps(StudentDetails.model_validate(details).model_dump()) == json.dumps(details)
    assert json.dumps(LabelsProvenance.model_validate(LABELS).model_dump()) == json.dumps(LABELS)


def test_a_card_equals_that_of_version_0_1(tmp_path: Path) -> None:
    config, model = MANIFEST["config"], tmp_path / "model"
    model.mkdir()
    text = card(parse_run(config | {"student": config["student"] | {"model": str(model)}}))
    assert text == (STUDENT / "README.md").read_text(), "also without the path of the model's folder"


def test_a_card_shows_the_filters_of_the_labels(tmp_path: Path) -> None:
    write_labels(tmp_path, label_rows(4))
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "label")
    assert labels_provenance(labels).filters is None, "labels that do not record them"
    labels.identity["teacher"] = {"filters": {"gold": "drop-disagreeing"}}
    assert labels_provenance(labels).filters == {"gold": "drop-disagreeing"}
    run = make_run(tmp_path, "org/student")
    filters = FiltersConfig(gold="drop-disagreeing", min_agreement=0.4).model_dump()
    assert "Filters: gold `drop-disagreeing`, min_agreement `0.4`." in card(run, filters=filters)
    assert "Filters: none." in card(run, filters=FiltersConfig().model_dump())
    assert "Filters: unknown." in card(run, filters=None)


def test_a_card_of_a_finetuned_student_has_no_rationales(tmp_path: Path) -> None:
    loss = {"label": {"first": 4.0, "last": 0.5}, "validation": {}}
    details = DETAILS | {"method": "finetune", "training": DETAILS["training"] | {"loss": loss}}
    text = card(make_run(tmp_path, "org/student", student={"method": "finetune"}), details)
    assert "rationale" not in text
    assert "| label | 4.0000 | 0.5000 | – | – |" in text
