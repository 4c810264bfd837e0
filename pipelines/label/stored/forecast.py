"""Which examples would take over a stored answer: for `raystill plan`, without Ray."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config import RunConfig
from pipelines.data.shots import read_shots
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.stored.index import stored_keys
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.stored.sources import text_files
from pipelines.label.teachers.registry import teacher_class
from pipelines.storage.store import Store
from pipelines.tasks import Example, load_task, task_spec


def stored_files(run: RunConfig) -> bool:
    """True if there are stored answers that the run may take over, if it replaces what OUTPUT holds."""
    return bool(text_files(run, Store(run.output).child("labels"), replaced=True))


def stored_among(run: RunConfig, examples: Sequence[Example], *, replaced: bool) -> int:
    """How many of the examples have a stored answer to their prompt.

    Args:
        replaced: the run replaces what OUTPUT/labels holds.
    """
    files = text_files(run, Store(run.output).child("labels"), replaced=replaced)
    task = load_task(task_spec(run.task, run.task_options))
    prompts = PromptMaker(task, run.teacher, read_shots(run.teacher, task))
    keys = AnswerKeys.of_run(run, teacher_class(run.teacher.engine).model_identity(run.teacher))
    wanted = []
    for example in examples:
        try:
            wanted.append(keys.of(prompts.render(example)))
        except Exception:  # noqa: BLE001 - the task may be the user's code; labelling rejects this row with the reason
            continue
    found = stored_keys(files, wanted)
    return sum(key in found for key in wanted)
