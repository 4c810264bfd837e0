"""What the quickstart writes and asks. The whole chain is `make quickstart`."""

from pathlib import Path

import pytest

from cluster.commands.quickstart import _QUESTIONS, check_task, prepare
from pipelines.config.load import load_run
from pipelines.errors import UserError
from pipelines.tasks import load_task, task_spec


@pytest.mark.parametrize("recipe", ["quickstart", "quickstart-nli"])
def test_each_recipe_has_a_question_that_its_task_reads(tmp_path: Path, recipe: str) -> None:
    run_file = prepare(str(tmp_path / "here"), recipe)
    run = load_run(run_file)
    check_task(run, run_file)
    question = _QUESTIONS[run.task]
    row = question if isinstance(question, dict) else {"input": question}
    assert load_task(task_spec(run.task, run.task_options)).read({"id": "q", **row}).input


def test_an_existing_run_file_stays_and_needs_a_known_task(tmp_path: Path) -> None:
    run_file = prepare(str(tmp_path), "quickstart")
    assert load_run(prepare(str(tmp_path), "quickstart-nli")).task == "arithmetic"
    run_file.write_text(run_file.read_text().replace("task: arithmetic", "task: multiple-choice"))
    with pytest.raises(UserError, match=r"task multiple-choice in .*must be arithmetic or nli.*raystill run"):
        check_task(load_run(run_file), run_file)
