from pathlib import Path

import pytest
import yaml

from pipelines.config.load import parse_run
from pipelines.recipes import __file__ as package


@pytest.mark.parametrize("recipe", ["svamp", "cqa", "anli", "esnli"])
def test_recipe_offers_the_labels_of_the_teacher(recipe: str) -> None:
    text = (Path(package).parent / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert text.count("\n  labels: gold\n  # labels: teacher ") == 1
    other = text.replace("\n  labels: gold\n  # labels: teacher ", "\n  labels: teacher ")
    assert parse_run(yaml.safe_load(other)).student.label_column == "label"
