"""The part of a plan that is about `raystill compare`: its trainings, its common budget, and what it could show."""

from __future__ import annotations

from importlib.util import find_spec

from cluster.planning.model import ComparisonPlan
from pipelines.config import RunConfig
from pipelines.scoring.power import detectable, power_text


def comparison_plan(run: RunConfig, heldout: int) -> ComparisonPlan | None:
    """The plan of the run's comparison; None if the run file has no `compare`.

    Args:
        heldout: rows that are scored.
    """
    if "compare" not in run.model_fields_set:
        return None
    from pipelines.compare.grid import cells, trials, without_search

    seeds = len(run.compare.seeds)
    known = find_spec("scipy") is not None
    return ComparisonPlan(
        trainings=len(trials(run)) + len(cells(run, without_search(run))),
        examples=heldout,
        seeds=seeds,
        budget=_budget(run),
        detectable=detectable(heldout, seeds) if known else None,
        power=power_text(heldout, seeds) if known else "what it can show is unknown without the extra `train`",
    )


def _budget(run: RunConfig) -> str:
    training, equal = run.training, run.compare.equal
    if run.compare.search.steps:
        return f"steps that the search chooses from {', '.join(map(str, run.compare.search.steps))}, the same for all"
    if training.steps is not None:
        amount = (
            f"{training.steps:,} steps"
            if equal == "steps"
            else f"{training.steps * training.tokens_per_batch:,} tokens"
        )
        return f"{amount} for each training"
    if equal == "epochs":
        return f"{training.epochs:g} epochs for each training; methods with more tokens take more steps"
    return f"the {equal} of {training.epochs:g} epochs of the method with most tokens, the same for all; counted from the labels"
