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


@pytest.mark.parametrize(("name", "message"), [("alchemy", "unknown task"), ("gone.py", "the file does not exist")])
def test_unknown_task_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_spec(name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "Use the version of Raystill that made the artifact"),
        ("1 / 0", r"the file fails \(ZeroDivisionError"),
        ("x = 1", "it defines 0 subclasses of Task, must be one"),
        (OWN + "class Other(Own): pass", "it defines 2 subclasses of Task, must be one"),
        (OWN + "    def __init__(self, options): options['size']", r"Own does not accept its options \(KeyError"),
    ],
)
def test_invalid_task_is_refused(source: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(TaskSpec("own.py", {}, source))
