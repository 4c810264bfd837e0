"""Results of a grid -> report.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pipelines.compare.costs import grid_cost
from pipelines.compare.grid import (
    Cell,
    baseline_of,
    cells,
    student_name,
    student_of,
    students_of,
    trials,
    without_search,
)
from pipelines.compare.headline import headline, notes
from pipelines.compare.model import (
    FORMAT,
    CellDetails,
    CellScores,
    ComparisonReport,
    Difference,
    Group,
    LabelCounts,
    Line,
    MissingCell,
    Place,
    Search,
    Settings,
    Student,
    Trial,
)
from pipelines.compare.results import GridResults
from pipelines.compare.verdicts import budget_ratio, headline_difference, with_verdicts
from pipelines.methods import MethodName
from pipelines.reports.format import fraction as share_text
from pipelines.scoring.costs import worker_hours
from pipelines.scoring.model import JsonObject, TaskVersion, TrainingSettings
from pipelines.scoring.power import detectable
from pipelines.scoring.seeds import mean, mean_difference
from pipelines.scoring.settings import filters_of, learned
from pipelines.scoring.statistics import score
from pipelines.storage.manifest import Manifest, library_versions, now
from pipelines.train.identity import deciding_settings

_CELL_SETTINGS = frozenset({"seed", "fraction", "learning_rate"})
"""Keys of `training` that differ between cells."""
_Groups = dict[Place, list[Cell]]


def comparison_report(results: GridResults) -> ComparisonReport:
    """The report of all finished cells."""
    run, groups = results.run, _groups(results)
    measured = [_group(results, members) for members in groups.values()]
    report = ComparisonReport(
        format=FORMAT,
        run=run.name,
        headline="",
        notes=[],
        task=TaskVersion(name=results.task.name, version=results.task.version),
        baseline=baseline_of(run.compare),
        equal=run.compare.equal,
        arms=tuple(results.arms),
        budget=results.budgets.text,
        detectable=detectable(len(results.examples), len(run.compare.seeds)),
        settings=_settings(results),
        heldout=results.references.heldout,
        rationales_read=results.references.rationales_read,
        students=list(_students(results)),
        lines=[
            *results.references.lines,
            *_untrained_lines(results),
            *_few_shot_lines(results),
            *_tf_idf_lines(results),
        ],
        groups=measured,
        differences=[],
        search=_search(results),
        missing=[
            MissingCell(**cell.key.model_dump(), seed=cell.seed, why=why) for cell, why in results.missing.items()
        ],
        cost=grid_cost(results, measured),
        provenance={"labels": _labels(results.labels)},
        versions=library_versions(),
        created=now(),
    )
    pairs = list(_differences(results, groups, {group.place: group for group in measured}))
    differences = with_verdicts(pairs, headline_difference(pairs, report.students), run.compare.equal)
    report = report.model_copy(update={"differences": differences})
    counts = LabelCounts.model_validate(results.labels.counts)
    return report.model_copy(update={"headline": headline(report), "notes": notes(report, counts)})


def _settings(results: GridResults) -> Settings:
    run = results.run
    training = {key: value for key, value in deciding_settings(run.training).items() if key not in _CELL_SETTINGS}
    if (steps := _common_steps(results)) is not None:
        training = {key: value for key, value in training.items() if key != "epochs"} | {"steps": steps}
    return Settings(
        labels={method: learned(student_of(run, method, run.student.model)) for method in run.compare.methods},
        filters=filters_of(results.labels),
        training=TrainingSettings.model_validate(training),
    )


def _common_steps(results: GridResults) -> int | None:
    """The steps of all cells, if these are equal by the grid's rule."""
    searched = next((setting.steps for setting in results.chosen.values()), None)
    return searched or results.budgets.steps


def _untrained_lines(results: GridResults) -> Iterator[Line]:
    for model in students_of(results.run):
        name, manifest = student_name(model), results.untrained.get(model)
        if manifest is None:
            yield Line(
                name="untrained", student=name, correct=None, total=None, accuracy=None, interval=None,
                note="the training makes its tokenizer",
            )  # fmt: skip
        else:
            yield _counted_line("untrained", name, manifest, "")


def _few_shot_lines(results: GridResults) -> Iterator[Line]:
    note = "the teacher's prompt, labels ranked by likelihood" if results.task.is_closed else "the teacher's prompt"
    for model, manifest in results.few_shot.items():
        too_long = manifest.counts["too_long"]
        limit = f"; {too_long:,} prompts are too long for the student and count as wrong" if too_long else ""
        yield _counted_line("few-shot", student_name(model), manifest, note + limit)


def _counted_line(name: Literal["untrained", "few-shot"], student: str, manifest: Manifest, note: str) -> Line:
    correct, total = manifest.counts["correct"], manifest.counts["total"]
    found = score([True] * correct + [False] * (total - correct))
    return Line(
        name=name, student=student, correct=correct, total=total, accuracy=found.accuracy,
        interval=(found.low, found.high), note=note,
    )  # fmt: skip


def _tf_idf_lines(results: GridResults) -> Iterator[Line]:
    for one in results.tf_idf:
        found = mean(one.rights)
        yield Line(
            name="tf-idf", student=None, correct=None, total=len(results.examples), accuracy=found.value,
            interval=(found.low, found.high), fraction=one.fraction,
            note=f"logistic regression on {one.rows:,.0f} rows, {share_text(one.fraction)} of the labels",
        )  # fmt: skip


def _students(results: GridResults) -> Iterator[Student]:
    parameters = {cell.student: _details(manifest).parameters for cell, manifest in results.cells.items()}
    for model in students_of(results.run):
        if model in parameters:
            yield Student(name=student_name(model), model=model, parameters=parameters[model])


def _groups(results: GridResults) -> _Groups:
    groups: _Groups = {}
    for cell in cells(results.run, results.chosen or without_search(results.run)):
        if cell in results.cells:
            groups.setdefault(cell.key.place, []).append(cell)
    return groups


def _group(results: GridResults, members: Sequence[Cell]) -> Group:
    scores = [_cell(cell, results.cells[cell]) for cell in members]
    accuracy = mean([results.rights[cell] for cell in members])
    return Group(
        **members[0].key.model_dump(),
        accuracy=accuracy.value,
        interval=(accuracy.low, accuracy.high),
        train_examples=sum(one.train_examples for one in scores) / len(scores),
        steps=sum(one.steps for one in scores) / len(scores),
        tokens=sum(one.tokens for one in scores) / len(scores),
        cells=scores,
    )


def _cell(cell: Cell, manifest: Manifest) -> CellScores:
    details, counts = _details(manifest), manifest.counts
    workers = details.training.world_size
    # From the manifest: another run may have trained the cell, on other hardware.
    gpus_per_worker = manifest.config["training"]["gpus_per_worker"]
    return CellScores(
        seed=cell.seed,
        correct=counts["correct"],
        total=counts["total"],
        unanswered=counts["unanswered"],
        train_examples=details.train_examples,
        steps=details.training.steps,
        tokens=details.tokens,
        train_s=details.train_s,
        workers=workers,
        gpu_hours=worker_hours(workers, details.train_s) * gpus_per_worker,
        seconds_per_example=details.seconds_per_example,
        prompt_tokens=details.prompt_tokens_per_example,
        output_tokens=details.output_tokens_per_example,
        learning_rate=cell.setting.learning_rate,
        weight=cell.setting.weight,
        fingerprint=details.student,
    )


def _differences(results: GridResults, groups: _Groups, measured: Mapping[Place, Group]) -> Iterator[Difference]:
    """Methods against the baseline, and against the control that shows what a treatment changes."""
    baseline = baseline_of(results.run.compare)
    for place, members in groups.items():
        for other, versus in _controls(members[0], baseline):
            own = {cell.seed: results.rights[cell] for cell in members}
            base = {cell.seed: results.rights[cell] for cell in groups.get(other, ())}
            if seeds := [seed for seed in own if seed in base]:
                ours, theirs = [own[seed] for seed in seeds], [base[seed] for seed in seeds]
                gap = mean_difference(ours, theirs)
                yield Difference(
                    **members[0].key.model_dump(),
                    accuracy=mean(ours).value,
                    baseline_accuracy=mean(theirs).value,
                    difference=gap.value,
                    interval=(gap.low, gap.high),
                    seeds=len(seeds),
                    versus=versus,
                    p_value=gap.p_value,
                    budget_ratio=budget_ratio(measured[place], measured[other], results.run.compare.equal),
                )


def _controls(cell: Cell, baseline: MethodName) -> Iterator[tuple[Place, str]]:
    """The groups that a group is compared with, by place, with their title; empty for the report's baseline."""
    if cell.treatment is None:
        if cell.method != baseline:
            yield replace(cell, method=baseline).key.place, ""
        shuffled = replace(cell, treatment="shuffled-rationales")
        yield shuffled.key.place, shuffled.arm
    elif cell.treatment == "gold-else-teacher":
        alone = replace(cell, method="finetune", treatment="gold-only")
        yield alone.key.place, alone.arm
    elif cell.treatment == "shuffled-rationales":
        yield replace(cell, method=baseline, treatment=None).key.place, ""


def _search(results: GridResults) -> Search | None:
    tried = trials(results.run)
    if not tried:
        return None
    return Search(
        trials=results.run.compare.search.trials,
        fraction=tried[0].fraction,
        seed=tried[0].seed,
        split="validation",
        examples=max((manifest.counts["total"] for manifest in results.trials.values()), default=0),
        settings=[_trial(results, cell) for cell in tried],
    )


def _trial(results: GridResults, cell: Cell) -> Trial:
    scored = results.trials.get(cell)
    return Trial(
        student=student_name(cell.student),
        method=cell.method,
        learning_rate=cell.setting.learning_rate,
        weight=cell.setting.weight,
        steps=cell.setting.steps,
        correct=scored.counts["correct"] if scored else None,
        total=scored.counts["total"] if scored else None,
        chosen=results.chosen.get((cell.student, cell.method)) == cell.setting,
        why=results.failed_trials.get(cell, ""),
    )


def _labels(manifest: Manifest) -> JsonObject:
    details = manifest.details
    kept = {key: details.get(key) for key in ("prompt_version", "teacher", "task")}
    return {"fingerprint": manifest.fingerprint, **kept, "filters": filters_of(manifest), "counts": manifest.counts}


def _details(manifest: Manifest) -> CellDetails:
    return CellDetails.model_validate(manifest.details)
