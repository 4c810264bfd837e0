"""JSON Schemas of what the commands print and the stages write, generated from the pydantic models.

`python -m cluster.schemas` writes `NAME.json` beside this file for each entry of `models`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

FOLDER = Path(__file__).parent


def models() -> dict[str, type[BaseModel]]:
    """Each schema's model, by the schema's name."""
    from cluster.commands.errors import CommandError
    from cluster.init.summary import InitSummary
    from cluster.kubernetes.plan import KubernetesPlan
    from cluster.kubernetes.settings import SettingsFile
    from cluster.kubernetes.state import JobState
    from cluster.planning.model import Plan
    from pipelines.compare.model import ComparisonReport
    from pipelines.data.label_manifest import LabelDetails
    from pipelines.evaluate.model import Report
    from pipelines.status import RunStatus
    from pipelines.storage.manifest import Manifest
    from pipelines.students.details import StudentDetails

    return {
        "comparison": ComparisonReport,
        "error": CommandError,
        "init": InitSummary,
        "k8s_job": JobState,
        "k8s_plan": KubernetesPlan,
        "k8s_settings": SettingsFile,
        "label_details": LabelDetails,
        "manifest": Manifest,
        "plan": Plan,
        "report": Report,
        "status": RunStatus,
        "student_details": StudentDetails,
    }


class _WithoutFieldTitles(GenerateJsonSchema):
    """Without `"title": "Rows Finished"`, which repeats the name of the field."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def schema_text(model: type[BaseModel]) -> str:
    """The JSON Schema of what the model serializes to, as its file holds it."""
    schema = model.model_json_schema(mode="serialization", schema_generator=_WithoutFieldTitles)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
