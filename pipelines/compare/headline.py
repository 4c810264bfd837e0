"""What a comparison says in one sentence, and what has to be known of it.

In: report.json but for its headline and notes. Out:

    With 100% of the labels step-by-step is right on 12.3% of 200 held-out examples and finetune on 9.1% (SmolLM2-135M, mean of 3 seeds):
    +3.2 points (95% interval -1.2 to +7.6), no difference is shown.

    Methods are not trained equally long (SmolLM2-135M, 100% of the labels): step-by-step takes 1.9 times the optimizer steps and 2.9
    times the tokens of finetune.

    All methods, the baseline too, learn only from rows that the teacher's answers and filters left: 450 of 600 (rejected:
    disagrees_with_gold 120, unparsable 30).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.methods import MethodName
from pipelines.reports.format import fraction, percent, percents, plural, points, points_range
from pipelines.scoring.statistics import verdict

_NEW_METHODS: tuple[MethodName, ...] = ("step-by-step", "rationale-then-label", "task-distillation")
"""Whose difference the headline tells, the first that is there: fixed beforehand, never the one that did best."""
_OF_ONE_SEED = ", which knows nothing of another seed"
_EQUAL = 0.05
"""Trainings whose steps and tokens differ by less than this share are equally long."""


def headline(content: Mapping[str, Any]) -> str:
    """One sentence on the largest student with the most labels: the method that was to help, against the baseline."""
    sizes = {student["name"]: student["parameters"] for student in content["students"]}
    one = _told(content)
    if one is None:
        return _without_differences(content, sizes)
    alone = one["seeds"] == 1
    who = "this one student is" if alone else "it is"
    said = {"ahead": f"{who} better", "behind": f"{who} worse"}
    shown = verdict(one["interval"])
    return (
        f"With {fraction(one['fraction'])} of the labels {one['method']} is right on {percent(one['accuracy'])} of "
        f"{content['heldout']['scored']:,} held-out examples and {content['baseline']} on {percent(one['baseline_accuracy'])} "
        f"({one['student']}, {_seeds(one['seeds'])}): {points(one['difference'])} points "
        f"(95% interval {points_range(one['interval'])}{_OF_ONE_SEED if alone else ''}), {said.get(shown, shown)}."
    )


def notes(content: Mapping[str, Any]) -> list[str]:
    """What has to be known of the headline and of all figures: what few seeds leave open, which method is trained for longer, and which
    rows no method learns from."""
    return [*_of_seeds(content), *_of_lengths(content), *_of_rows(content)]


def _told(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The difference that the headline tells; None where there is none."""
    sizes = {student["name"]: student["parameters"] for student in content["students"]}
    order = [*_NEW_METHODS, *(d["method"] for d in content["differences"])]
    differences: list[Mapping[str, Any]] = content["differences"]
    return min(
        differences, key=lambda d: (order.index(d["method"]), -d["fraction"], -sizes[d["student"]]), default=None
    )


def _of_seeds(content: Mapping[str, Any]) -> Iterator[str]:
    counts = {len(group["cells"]) for group in content["groups"]} | {d["seeds"] for d in content["differences"]}
    if 1 in counts:
        yield (
            "Where there is one seed, an interval is of these very students: it knows nothing of how much another seed would change, "
            "and ahead or behind says nothing of the method."
        )
    if 2 in counts:
        yield (
            "Where there are two seeds that differ, a 95% interval holds the truth less often than it says: in simulations with 1,000 "
            "examples in about 90 of 100."
        )


def _of_lengths(content: Mapping[str, Any]) -> Iterator[str]:
    """By how much more steps and tokens the methods take than the baseline, for the student and share of the labels of the headline."""
    one = _told(content)
    if one is None:
        return
    place = {key: one[key] for key in ("student", "fraction")}
    there = {g["method"]: g for g in content["groups"] if all(g[key] == value for key, value in place.items())}
    base = there.pop(content["baseline"])
    times = {
        method: tuple(group[key] / base[key] for key in ("steps", "tokens"))
        for method, group in there.items()
        if base["steps"] and base["tokens"]
    }
    longer = [
        f"{method} takes {steps:.1f} times the optimizer steps and {tokens:.1f} times the tokens of {content['baseline']}"
        for method, (steps, tokens) in times.items()
        if max(abs(steps - 1), abs(tokens - 1)) >= _EQUAL
    ]
    if longer:
        where = f"{one['student']}, {fraction(one['fraction'])} of the labels"
        yield f"Methods are not trained equally long ({where}): {'; '.join(longer)}."


def _of_rows(content: Mapping[str, Any]) -> Iterator[str]:
    """That the baseline, too, does without the rows that labelling rejected: from gold labels alone it might have learned them as well."""
    counts = content["provenance"]["labels"]["counts"]
    if counts.get("rejected"):
        reasons = sorted(counts["rejected_by_reason"].items(), key=lambda found: -found[1])
        yield (
            "All methods, the baseline too, learn only from rows that the teacher's answers and filters left: "
            f"{counts['accepted']:,} of {counts['read']:,} "
            f"(rejected: {', '.join(f'{reason} {count:,}' for reason, count in reasons)})."
        )


def _without_differences(content: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The headline of a grid in which nothing can be compared: one of a single method, or one that has just begun."""
    groups, missing = content["groups"], content["missing"]
    done = sum(len(group["cells"]) for group in groups)
    if groups and len({row["method"] for row in (*groups, *missing)}) == 1:
        one = max(groups, key=lambda group: (group["fraction"], sizes[group["student"]]))
        interval = percents(one["interval"]) + (_OF_ONE_SEED if len(one["cells"]) == 1 else "")
        return (
            f"With {fraction(one['fraction'])} of the labels {one['method']} is right on {percent(one['accuracy'])} "
            f"(95% interval {interval}) of {content['heldout']['scored']:,} held-out examples "
            f"({one['student']}, {_seeds(len(one['cells']))}). The grid has no other method to compare it with."
        )
    there = f"{done:,} of {plural(done + len(missing), 'training')} {'is' if done == 1 else 'are'} there"
    return f"No method can be compared with {content['baseline']} yet: {there}."


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"mean of {count} seeds"
