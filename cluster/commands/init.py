"""`raystill init CORPUS`: look at a corpus, guess its task, and write a run file that works. Nothing is overwritten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from cluster.init.columns import CorpusLook, look_at
from cluster.init.encodings import encoding_name, encoding_warnings
from cluster.init.examples import examples, instruction
from cluster.init.guess import Guess, guess_task
from cluster.init.run_file import RunFile
from cluster.init.summary import FoundColumn, InitSummary
from cluster.init.task_file import task_text, test_of_task
from cluster.init.warnings import corpus_warnings
from cluster.session.command_log import command_log
from pipelines.data.files import corpus_files, file_format
from pipelines.data.formats import FORMATS
from pipelines.data.formats.csv_dialect import csv_dialect
from pipelines.data.formats.json_array import is_array
from pipelines.data.survey import Survey, survey
from pipelines.errors import RaystillError, UserError
from pipelines.storage.filesystems import shown
from pipelines.tasks import load_task, task_spec

_HUB_TEACHER = "HuggingFaceTB/SmolLM2-135M-Instruct"
_VALIDATION, _VALIDATION_OF_FEW = 0.1, 0.2
_FEW_ROWS = 50


def run_init(corpus: str | None, output: str | None, *, own_task: bool, as_json: bool) -> None:
    """The command; see `raystill init --help`.

    Raises:
        UserError: the corpus cannot be read, or a file is in the way.
    """
    if corpus is None:
        if not own_task:
            raise UserError("CORPUS", "it is missing", "Name a file, folder, glob or URI; or give --task alone.")
        _write_task(Path(output or "task.py"), as_json=as_json)
        return
    name = _name(corpus)
    target = Path(output or f"{name}.yaml")
    task_file = target.with_name(f"{target.stem}_task.py".replace("-", "_")) if own_task else None
    _check_free(target, *([task_file, _test_file(task_file)] if task_file else []))
    found = _find(corpus, own_task=own_task)
    teacher, note, problem = _teacher()
    run_file = RunFile(
        name=name,
        file=target.name,
        corpus=_relative(_train_part(corpus, found.files, found.test), target),
        guess=found.guess,
        teacher=teacher,
        teacher_note=note,
        with_gold=found.rows.with_gold,
        without_gold=found.rows.without_gold,
        validation=found.validation,
        test=_relative(found.test, target) if found.test else None,
        instruction=instruction(found.guess),
        examples=found.shots,
        task_file=task_file.name if task_file else None,
    )
    written = _write_task_files(task_file, name, found.guess, found.shots) if task_file else []
    _write_new(target, run_file.text())
    estimate, refusal = _estimate(target)
    summary = _summary(corpus, found).model_copy(update={"estimate": estimate, "written": [*written, str(target)]})
    more = [*([problem] if problem else []), *refusal]
    _print(summary.model_copy(update={"warnings": [*summary.warnings, *more]}), target, as_json=as_json)


@dataclass(frozen=True)
class _Found:
    """What a corpus holds."""

    files: list[str]
    test: str | None
    look: CorpusLook
    guess: Guess
    rows: Survey
    validation: float
    shots: list[dict[str, str]]


def _find(corpus: str, *, own_task: bool) -> _Found:
    files, test = _without_test(corpus_files(_absolute(corpus), "CORPUS"))
    look = look_at(files)
    if not look.rows:
        raise UserError(shown(corpus), "the corpus is empty", "Give a corpus with at least one row.")
    guess = guess_task(files, look, shown(corpus), own_task=own_task)
    rows = survey(files, load_task(task_spec(guess.task, guess.options)), guess.fields)
    validation = _VALIDATION if rows.readable >= _FEW_ROWS else _VALIDATION_OF_FEW
    shots = examples(files, guess, validation) if guess.task == "classification" else []
    return _Found(files, test, look, guess, rows, validation, shots)


def _summary(corpus: str, found: _Found) -> InitSummary:
    look, guess, rows = found.look, found.guess, found.rows
    return InitSummary(
        corpus=shown(corpus),
        files=len(found.files),
        format=_format(found.files),
        rows=look.rows,
        whole=look.whole,
        task=guess.task,
        fields=[_column(field, column, look) for field, column in guess.fields.items()],
        other_columns=[column for column in look.columns if column not in guess.fields.values()],
        with_gold=rows.with_gold,
        labels=dict(rows.labels.most_common()) if guess.labels or guess.task == "nli" else {},
        distinct_labels=len(rows.labels),
        repeated_ids=rows.repeated.rows,
        unreadable=rows.rows - rows.readable,
        warnings=[*encoding_warnings(found.files), *corpus_warnings(guess, look, rows, found.shots)],
        estimate=None,
        written=[],
    )


def _print(summary: InitSummary, target: Path, *, as_json: bool) -> None:
    if as_json:
        print(summary.model_dump_json(indent=2))
        return
    print("\n".join(summary.lines()))
    print(f"wrote {', '.join(summary.written)}. Read it, then:")
    print(f"  raystill plan {target}")
    print(f"  raystill label {target} --set corpus.limit=20 --set output=runs/try")


def _column(field: str, column: str, look: CorpusLook) -> FoundColumn:
    return FoundColumn(field=field, column=column, values=look.columns[column].values if column in look.columns else 0)


def _absolute(corpus: str) -> str:
    return corpus if "://" in corpus else str(Path(corpus).expanduser().absolute())


def _name(corpus: str) -> str:
    plain = corpus.partition("?")[0].rstrip("/")
    base = Path(plain).name or "corpus"
    stem = re.sub(r"(\.(gz|zst|bz2))?$", "", base)
    stem = re.sub(r"\.[A-Za-z]+$", "", stem) or base
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:60] or "corpus"


def _without_test(files: list[str]) -> tuple[list[str], str | None]:
    """The files to train on, and the one whose name says that it is held out."""
    held_out = [uri for uri in files if re.match(r"test\b|test[-_.]", Path(uri).name, re.IGNORECASE)]
    if len(held_out) == 1 and len(files) > 1:
        return [uri for uri in files if uri not in held_out], held_out[0]
    return files, None


def _train_part(corpus: str, files: Sequence[str], test: str | None) -> str:
    """What `corpus.train` names: the argument, or the one file beside the test file."""
    if test is None:
        return _absolute(corpus)
    if len(files) > 1:
        rule = f"{Path(test).name} is a test file, and {len(files)} other files lie beside it"
        raise UserError(shown(corpus), rule, "Give init the training files alone, in a folder or glob of their own.")
    return files[0]


def _relative(path: str, target: Path) -> str:
    """A path as the run file has it: relative to its folder if it lies below that, else absolute."""
    if "://" in path:
        return path
    folder = target.absolute().parent
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


def _format(files: Sequence[str]) -> str:
    kinds = sorted({file_format(uri) for uri in files})
    text = " and ".join(FORMATS[kind].name for kind in kinds)
    if kinds == ["jsonl"] and all(uri.endswith(".json") and is_array(uri) for uri in files):
        return "JSON array"
    if "csv" not in kinds:
        return text
    csv_files = [uri for uri in files if file_format(uri) == "csv"]
    return f"{text}, separator {csv_dialect(csv_files[0]).separator_name}, {encoding_name(csv_files)}"


def _teacher() -> tuple[str, str, str | None]:
    """Model of the teacher, its comment, and why it is not the embedded one."""
    from pipelines.config.paths import EMBEDDED
    from pipelines.students.embedded_teacher import embedded_teacher

    try:
        with command_log("init", verbose=False):  # what its conversion prints is no summary
            embedded_teacher()
    except (RaystillError, ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        return (
            _HUB_TEACHER,
            "any hub id or folder",
            f"the embedded teacher is unavailable ({reason}); set teacher.model",
        )
    return EMBEDDED, "a small one that needs no hub; any hub id or folder", None


def _estimate(target: Path) -> tuple[str | None, list[str]]:
    """(the plan of the new run file in one line, no problems), or (None, why it cannot be planned)."""
    from cluster.planning.plan import make_plan
    from pipelines.config.load import load_run
    from pipelines.runtime.durations import duration

    try:
        plan = make_plan(load_run(target), 0)
    except RaystillError as error:
        return None, [str(error)]
    label = plan.stages.label
    time = "of unknown duration" if label.seconds is None else f"about {duration(label.seconds)}"
    return f"{label.rows:,} rows to label, {time} after the engine's start; {plan.throughput.source}", []


def _check_free(*paths: Path) -> None:
    for path in paths:
        if path.exists() or path.is_symlink():
            raise UserError(str(path), "it exists, and init overwrites nothing", "Remove it, or set --output FILE.")


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not exist."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _check_free(path)
    except OSError as error:
        raise UserError(str(path), f"it cannot be written ({error.strerror})", "Set --output FILE.") from error


def _test_file(task_file: Path) -> Path:
    return task_file.with_name(f"test_{task_file.name}")


def _write_task_files(task_file: Path, name: str, guess: Guess | None, shots: Sequence[dict[str, str]]) -> list[str]:
    question = instruction(guess) if guess else "Is the guest content?"
    test_file = _test_file(task_file)
    _write_new(task_file, task_text(name, question, guess.labels if guess else None, shots))
    _write_new(test_file, test_of_task(task_file.name, test_file.name))
    return [str(task_file), str(test_file)]


def _write_task(path: Path, *, as_json: bool) -> None:
    """--task without a corpus."""
    if path.suffix != ".py":
        raise UserError(f"--output {path}", "a task file ends in .py", "Write for example --output task.py.")
    _check_free(path, _test_file(path))
    written = _write_task_files(path, "own-task", None, [])
    if as_json:
        import json

        print(json.dumps({"written": written}))
        return
    click.echo(f"wrote {' and '.join(written)}. Name it in a run file: `task: {path.name}`. Test it:")
    click.echo(f"  python -m pytest {_test_file(path)}")
