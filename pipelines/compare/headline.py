"""What a comparison says in one sentence.

In: report.json but for its headline. Out:

    With 100% of the labels step-by-step is right on 12.3% of 200 held-out examples and finetune on 9.1% (SmolLM2-135M, mean of 3 seeds):
    +3.2 points (95% interval -1.2 to +7.6), no difference is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.compare.tables import verdict
from pipelines.methods import Method
from pipelines.pages.words import fraction, percent, percents, plural, points, points_range

_NEW_METHODS: tuple[Method, ...] = ("step-by-step", "rationale-then-label", "task-distillation")
"""Whose difference the headline tells, the first that is there: fixed beforehand, never the one that did best."""


def headline(content: Mapping[str, Any]) -> str:
    """One sentence on the largest student with the most labels: the method that was to help, against the baseline."""
    sizes = {student["name"]: student["parameters"] for student in content["students"]}
    order = [*_NEW_METHODS, *(d["method"] for d in content["differences"])]
    told = sorted(
        content["differences"], key=lambda d: (order.index(d["method"]), -d["fraction"], -sizes[d["student"]])
    )
    if not told:
        return _without_differences(content, sizes)
    one = told[0]
    said = {"ahead": "it is better", "behind": "it is worse"}
    shown = verdict(one["interval"])
    return (
        f"With {fraction(one['fraction'])} of the labels {one['method']} is right on {percent(one['accuracy'])} of "
        f"{content['heldout']['scored']:,} held-out examples and {content['baseline']} on {percent(one['baseline_accuracy'])} "
        f"({one['student']}, {_seeds(one['seeds'])}): {points(one['difference'])} points "
        f"(95% interval {points_range(one['interval'])}), {said.get(shown, shown)}."
    )


def _without_differences(content: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The headline of a grid in which nothing can be compared: one of a single method, or one that has just begun."""
    groups, missing = content["groups"], content["missing"]
    done = sum(len(group["cells"]) for group in groups)
    if groups and len({row["method"] for row in (*groups, *missing)}) == 1:
        one = max(groups, key=lambda group: (group["fraction"], sizes[group["student"]]))
        return (
            f"With {fraction(one['fraction'])} of the labels {one['method']} is right on {percent(one['accuracy'])} "
            f"(95% interval {percents(one['interval'])}) of {content['heldout']['scored']:,} held-out examples "
            f"({one['student']}, {_seeds(len(one['cells']))}). The grid has no other method to compare it with."
        )
    there = f"{done:,} of {plural(done + len(missing), 'training')} {'is' if done == 1 else 'are'} there"
    return f"No method can be compared with {content['baseline']} yet: {there}."


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"mean of {count} seeds"
