"""The comparison: what was measured of every cell -> report.json.

`report.json` (shares are between 0 and 1, times in seconds; null: there is no such figure):

    {"format": 4, "run": "svamp", "headline": "With 100% of the labels, step-by-step is right on 12.3% ...",
     "notes": ["Methods are not trained equally long ..."],
     "task": {"name": "arithmetic", "version": "1"}, "baseline": "finetune",
     "settings": {"labels": {"finetune": "gold", "step-by-step": "teacher"}, "filters": {"gold": "keep", ...} | null,
                  "training": {"epochs": 3, "tokens_per_batch": 16384, "precision": "bf16", ...}},
     "heldout": {"split": "test", "scored": 200, "without_gold": {...}, "unreadable": ..., "duplicates": {...},
                 "trained_on": {...}, "chosen_on": {...} | null},
     "students": [{"name": "SmolLM2-135M", "model": "HuggingFaceTB/SmolLM2-135M", "parameters": 134515008}],
     "rationales_read": null | {"examples": 200, "without": 3, "states_gold": 0.58},
     "lines": [{"name": "teacher" | "majority" | "untrained", "student": null | "SmolLM2-135M", "correct": 148, "total": 200,
                "accuracy": 0.74, "interval": [0.67, 0.8], "note": ""}],
     "groups": [{"student": "SmolLM2-135M", "method": "step-by-step", "fraction": 0.25, "accuracy": 0.071,
                 "interval": [0.03, 0.12], "train_examples": 150.0, "steps": 60.0, "tokens": 61000.0,
                 "cells": [{"seed": 0, "correct": 14, "total": 200, "unanswered": 3, "train_examples": 148, "steps": 60,
                            "tokens": 61000, "train_s": 210.1, "workers": 2, "gpu_hours": 0.0, "seconds_per_example": 0.12,
                            "prompt_tokens": 40.1, "output_tokens": 7.9, "learning_rate": 1e-4, "weight": 0.5 | null,
                            "fingerprint": "3f..."}]}],
     "differences": [{"student": "SmolLM2-135M", "method": "step-by-step", "fraction": 1.0, "accuracy": 0.123,
                      "baseline_accuracy": 0.091, "difference": 0.032, "interval": [-0.012, 0.076], "seeds": 3}],
     "search": null | {"trials": 2, "fraction": 1.0, "seed": 0, "split": "validation", "examples": 60,
                       "settings": [{"student": "...", "method": "...", "learning_rate": 5e-5, "weight": null, "correct": 7 | null,
                                     "total": 60, "chosen": true, "why": "" | "training broke off: ..."}]},
     "missing": [{"student": "...", "method": "...", "fraction": 1.0, "seed": 2, "why": "not there yet"}],
     "cost": {"teacher": {"prompt_tokens": 812000, "output_tokens": 46000, "gpu_hours": null, "money": null},
              "training": [{"student", "method", "fraction", "seconds", "gpu_hours", "money"}],
              "answers": [{"student", "method", "seconds_per_example", "per_1000", "teacher_prompt_tokens": 290.1 | null,
                           "teacher_output_tokens": 46.0 | null}]},
     "provenance": {"labels": {...}}, "versions": {"torch": "2.13.0"}, "created": "2026-01-31T12:00:00+00:00"}

`heldout`: as in the report of `raystill evaluate`; `chosen_on` where settings or weights were chosen on the validation split. `notes`:
what has to be known of the figures (headline.py). `settings`: what all cells have in common (evaluate/settings.py): whose labels each
method learns, the filters of the labels, and the run file's `training` but for what differs from cell to cell. `steps` and `tokens` of a
group: of one training, mean over its seeds.

A group's accuracy and interval, and the differences to the baseline method (same student, fraction, seeds and examples): seeds.py. Of
differences, and of the two accuracies beside them, only seeds that both have count. `rationales_read` (rationales.py) and `teacher_*`:
where a method reads the teacher's rationales; tokens are of the teacher's answer to an example. `why`: the trial failed. `answers`: at
the largest fraction, `per_1000` without the teacher. `train_s`: of a training that was gone on from, the longer of its last attempt and of
the steps of all its attempts. `prompt_tokens`, `output_tokens`: of an answer. `workers`, `gpu_hours`: of the run that trained the cell.
`cost.teacher`: costs.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from pipelines.compare.grid import (
    Cell,
    Setting,
    baseline_of,
    cells,
    student_name,
    student_of,
    students_of,
    trials,
    without_search,
)
from pipelines.compare.headline import headline, notes
from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout, validation_share
from pipelines.methods import METHODS, MethodName, rationale_readers
from pipelines.scoring.contamination import chosen_on, overlap_part, seen_in_training
from pipelines.scoring.costs import money_of, per_1000, teacher_cost, worker_hours
from pipelines.scoring.rationales import rationales_read
from pipelines.scoring.reference_systems import TeacherAnswers, majority_label, teacher_answers
from pipelines.scoring.seeds import Estimate, mean, mean_difference
from pipelines.scoring.settings import filters_of, learned
from pipelines.scoring.system import System
from pipelines.scoring.systems import heldout_key, heldout_part, majority_system, teacher_system
from pipelines.storage.filesystems import join
from pipelines.storage.manifest import Manifest, library_versions
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task
from pipelines.train.identity import deciding_settings

FORMAT = 4
"""Of report.json; bumped when other figures come of the same cells, too. Cells stay."""
_OF_A_CELL = frozenset({"seed", "fraction", "learning_rate"})
"""Settings of `training` that differ from cell to cell."""


@dataclass
class Found:
    """What is known of a grid so far."""

    run: RunConfig
    task: Task
    labels: Manifest
    heldout: Heldout
    examples: Sequence[Example]
    validation: Sequence[Example] | None = None
    """On which settings or weights are chosen; None where nothing is."""
    chosen: dict[tuple[str, MethodName], Setting] = field(default_factory=dict)
    """By a search; empty where there was none."""
    trials: dict[Cell, Manifest] = field(default_factory=dict)
    failed_trials: dict[Cell, str] = field(default_factory=dict)
    """And why."""
    cells: dict[Cell, Manifest] = field(default_factory=dict)
    rights: dict[Cell, list[bool]] = field(default_factory=dict)
    untrained: dict[str, Manifest] = field(default_factory=dict)
    missing: dict[Cell, str] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    """What does not change while cells are made (shared_parts)."""


def comparison(found: Found) -> dict[str, Any]:
    """report.json but for `created`."""
    run = found.run
    groups = list(_groups(found))
    differences = list(_differences(found))
    content: dict[str, Any] = {
        "format": FORMAT,
        "run": run.name,
        "task": {"name": found.task.name, "version": found.task.version},
        "baseline": baseline_of(run.compare),
        "settings": _settings(found),
        "heldout": found.shared["heldout"],
        "rationales_read": found.shared["rationales_read"],
        "students": list(_students(found)),
        "lines": [*found.shared["lines"], *_untrained_lines(found)],
        "groups": groups,
        "differences": differences,
        "search": _search(found),
        "missing": [{**_place(cell), "seed": cell.seed, "why": why} for cell, why in found.missing.items()],
        "cost": _cost(found, groups),
        "provenance": {"labels": _labels(found.labels)},
        "versions": library_versions(),
    }
    return content | {"headline": headline(content), "notes": notes(content)}


def shared_parts(found: Found) -> dict[str, Any]:
    """What the report says of the held-out examples, of teacher and majority. Reads the labels.

    Raises:
        UserError: too many of the examples stand among the training rows, or among those on which something is chosen.
    """
    run, task, examples = found.run, found.task, found.examples
    store, share, key = Store(join(run.output, "labels")), validation_share(run.corpus.validation), heldout_key(run)
    answers = teacher_answers(store, run.corpus, examples, task)
    majority = majority_label(store, share, task)
    overlap = {
        "trained_on": overlap_part(seen_in_training(store, share, examples), len(examples), key),
        "chosen_on": None if found.validation is None else chosen_on(found.validation, examples, key),
    }
    systems = [teacher_system(run, task, answers, examples), majority_system(task, majority, examples)]
    return {
        "heldout": {**heldout_part(run, found.heldout, len(examples)), **overlap},
        "lines": [_line(system) for system in systems],
        "rationales_read": rationales_read(answers, examples, task) if rationale_readers(run.compare.methods) else None,
        "teacher_tokens": _teacher_tokens(answers),
    }


def _settings(found: Found) -> dict[str, Any]:
    run = found.run
    training = {key: value for key, value in deciding_settings(run.training).items() if key not in _OF_A_CELL}
    labels = {method: learned(student_of(run, method, run.student.model)) for method in run.compare.methods}
    return {"labels": labels, "filters": filters_of(found.labels), "training": training}


def _teacher_tokens(answers: TeacherAnswers) -> dict[str, float | None]:
    """Means of an answer; None where nothing is known of them."""
    means = {}
    for key in ("prompt_tokens", "output_tokens"):
        known = [getattr(one, key) for one in answers.by_id.values() if getattr(one, key) is not None]
        means[f"teacher_{key}"] = fmean(known) if any(known) else None
    return means


def _line(system: System) -> dict[str, Any]:
    row = system.row()
    return {"student": None, **{key: row[key] for key in ("name", "correct", "total", "accuracy", "interval", "note")}}


def _untrained_lines(found: Found) -> Iterator[dict[str, Any]]:
    for model in students_of(found.run):
        line: dict[str, Any] = {"name": "untrained", "student": student_name(model), "note": ""}
        manifest = found.untrained.get(model)
        if manifest is None:
            note = "its tokenizer is made by the training"
            yield line | {"correct": None, "total": None, "accuracy": None, "interval": None, "note": note}
        else:
            correct, total = manifest.counts["correct"], manifest.counts["total"]
            estimate = mean([[True] * correct + [False] * (total - correct)])
            yield line | {"correct": correct, "total": total, **_estimate("accuracy", estimate)}


def _students(found: Found) -> Iterator[dict[str, Any]]:
    known = {cell.student: manifest.details["parameters"] for cell, manifest in found.cells.items()}
    for model in students_of(found.run):
        if model in known:
            yield {"name": student_name(model), "model": model, "parameters": known[model]}


def _by_group(found: Found) -> dict[tuple[str, MethodName, float], list[Cell]]:
    groups: dict[tuple[str, MethodName, float], list[Cell]] = {}
    for cell in cells(found.run, found.chosen or without_search(found.run)):
        if cell in found.cells:
            groups.setdefault((cell.student, cell.method, cell.fraction), []).append(cell)
    return groups


def _groups(found: Found) -> Iterator[dict[str, Any]]:
    for members in _by_group(found).values():
        rows = [_cell(found, cell) for cell in members]
        yield {
            **_place(members[0]),
            **_estimate("accuracy", mean([found.rights[cell] for cell in members])),
            **{key: fmean(row[key] for row in rows) for key in ("train_examples", "steps", "tokens")},
            "cells": rows,
        }


def _cell(found: Found, cell: Cell) -> dict[str, Any]:
    manifest = found.cells[cell]
    details, workers = manifest.details, manifest.details["training"]["world_size"]
    # Of the run that trained it: another one may have found it finished and run on other hardware.
    gpus_per_worker = manifest.config["training"]["gpus_per_worker"]
    return {
        "seed": cell.seed,
        **{key: manifest.counts[key] for key in ("correct", "total", "unanswered")},
        "train_examples": details["train_examples"],
        "steps": details["training"]["steps"],
        "tokens": details["tokens"],
        "train_s": details["train_s"],
        "workers": workers,
        "gpu_hours": worker_hours(workers, details["train_s"]) * gpus_per_worker,
        "seconds_per_example": details.get("seconds_per_example"),
        "prompt_tokens": details.get("prompt_tokens_per_example"),
        "output_tokens": details.get("output_tokens_per_example"),
        "learning_rate": cell.setting.learning_rate,
        "weight": cell.setting.weight,
        "fingerprint": details["student"],
    }


def _differences(found: Found) -> Iterator[dict[str, Any]]:
    groups, base = _by_group(found), baseline_of(found.run.compare)
    for (student, method, fraction), members in groups.items():
        mine = {cell.seed: found.rights[cell] for cell in members}
        theirs = {cell.seed: found.rights[cell] for cell in groups.get((student, base, fraction), ())}
        both = [seed for seed in mine if seed in theirs]
        if method != base and both:
            ours, base_s = [mine[seed] for seed in both], [theirs[seed] for seed in both]
            yield {
                **_place(members[0]),
                "accuracy": mean(ours).value,
                "baseline_accuracy": mean(base_s).value,
                **_estimate("difference", mean_difference(ours, base_s)),
                "seeds": len(both),
            }


def _search(found: Found) -> dict[str, Any] | None:
    tried = trials(found.run)
    if not tried:
        return None
    return {
        "trials": found.run.compare.search.trials,
        "fraction": tried[0].fraction,
        "seed": tried[0].seed,
        "split": "validation",
        "examples": max((manifest.counts["total"] for manifest in found.trials.values()), default=0),
        "settings": [_trial(found, cell) for cell in tried],
    }


def _trial(found: Found, cell: Cell) -> dict[str, Any]:
    counts = found.trials[cell].counts if cell in found.trials else {"correct": None, "total": None}
    return {
        "student": student_name(cell.student),
        "method": cell.method,
        "learning_rate": cell.setting.learning_rate,
        "weight": cell.setting.weight,
        **{key: counts[key] for key in ("correct", "total")},
        "chosen": found.chosen.get((cell.student, cell.method)) == cell.setting,
        "why": found.failed_trials.get(cell, ""),
    }


def _cost(found: Found, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    price = found.run.compare.price_per_worker_hour
    largest = max((group["fraction"] for group in groups), default=None)
    at_largest = [group for group in groups if group["fraction"] == largest]
    return {
        "teacher": teacher_cost(found.labels),
        "training": [_training_cost(group, price) for group in groups],
        "answers": [_answer_cost(group, price, found.shared["teacher_tokens"]) for group in at_largest],
    }


def _training_cost(group: Mapping[str, Any], price: float | None) -> dict[str, Any]:
    hours = fmean(worker_hours(cell["workers"], cell["train_s"]) for cell in group["cells"])
    return {
        **{key: group[key] for key in ("student", "method", "fraction")},
        "seconds": _average(group, "train_s"),
        "gpu_hours": _average(group, "gpu_hours"),
        "money": money_of(hours, price),
    }


def _answer_cost(group: Mapping[str, Any], price: float | None, teacher: Mapping[str, float | None]) -> dict[str, Any]:
    each = _average(group, "seconds_per_example")
    return {
        **{key: group[key] for key in ("student", "method")},
        "seconds_per_example": each,
        "per_1000": per_1000(each, price),
        **(teacher if METHODS[group["method"]].reads_rationale else dict.fromkeys(teacher)),
    }


def _average(group: Mapping[str, Any], key: str) -> float | None:
    values = [cell[key] for cell in group["cells"] if cell[key] is not None]
    return fmean(values) if values else None


def _labels(manifest: Manifest) -> dict[str, Any]:
    details = manifest.details
    kept = {key: details.get(key) for key in ("prompt_version", "teacher", "task")}
    return {"fingerprint": manifest.fingerprint, **kept, "filters": filters_of(manifest), "counts": manifest.counts}


def _place(cell: Cell) -> dict[str, Any]:
    return {"student": student_name(cell.student), "method": cell.method, "fraction": cell.fraction}


def _estimate(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, "interval": [estimate.low, estimate.high]}
