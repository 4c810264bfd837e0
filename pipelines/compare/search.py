"""The choice of settings and of the common budget, from the trials of a search.

In: trials with their right answers on the validation split. Out: the setting of each student and method. One rule for all methods: most
right answers win; of equally good trials the first, which has the lowest learning rate. Failed trials cannot win.

With `search.steps`, the budget comes first: the one at which the best trials of the methods are right most often, summed over methods and
students. Of equally good budgets the smallest wins. So all methods train for the same steps, and none has more trials than another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.compare.grid import Cell, Setting
from pipelines.methods import MethodName
from pipelines.storage.manifest import Manifest

Chosen = dict[tuple[str, MethodName], Setting]
Trials = Mapping[Cell, Manifest | None]
"""None: the trial failed."""


def grouped(trials: Iterable[Cell]) -> list[list[Cell]]:
    """The trials of each student and method."""
    groups: dict[tuple[str, MethodName], list[Cell]] = {}
    for cell in trials:
        groups.setdefault((cell.student, cell.method), []).append(cell)
    return list(groups.values())


def chosen_settings(trials: Trials) -> Chosen:
    """The setting of each student and method. Each must have a trial that did not fail."""
    groups = grouped(trials)
    budgets = sorted({cell.setting.steps for cell in trials}, key=lambda steps: steps or 0)
    common = [steps for steps in budgets if all(_best(trials, group, steps) for group in groups)]
    # Without a budget at which every method has a finished trial, each method keeps its own best one.
    steps = max(
        common, key=lambda steps: sum(_right(trials, _best(trials, group, steps)) for group in groups), default=None
    )
    found: Chosen = {}
    for group in groups:
        best = _best(trials, group, steps) if common else _best_of(trials, group)
        assert best is not None, "a student and method without a finished trial"
        found[best.student, best.method] = best.setting
    return found


def _best(trials: Trials, group: list[Cell], steps: int | None) -> Cell | None:
    return _best_of(trials, [cell for cell in group if cell.setting.steps == steps])


def _best_of(trials: Trials, group: list[Cell]) -> Cell | None:
    finished = [cell for cell in group if trials[cell] is not None]
    return max(finished, key=lambda cell: _right(trials, cell), default=None)


def _right(trials: Trials, cell: Cell | None) -> int:
    manifest = None if cell is None else trials[cell]
    return 0 if manifest is None else int(manifest.counts["correct"])
