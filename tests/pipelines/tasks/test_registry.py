from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.tasks import TaskSpec, load_task, task_spec

OWN = """
from pipelines.tasks.nli import NaturalLanguageInference

class Own(NaturalLanguageInference):
    name = "own"
"""


def test_task_file_is_loaded_from_its_source_alone(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    spec = task_spec(str(file))
    file.unlink()
    assert load_task(spec).name == "own"
    with pytest.raises(UserError, match="Use the version of Raystill that made the artifact"):
        load_task(TaskSpec("own.py"))
