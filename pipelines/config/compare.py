"""The run file's `compare`: the grid of `raystill compare`, and the search before it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import Section, Seed
from pipelines.methods import MethodName

_Range = Annotated[list[Annotated[float, Field(ge=0.0)]], Field(min_length=2, max_length=2)]


ArmName = Literal["finetune", "shuffled-rationales", "few-shot", "tf-idf"]
"""Controls that every grid has if they apply.

finetune: the method, even if `methods` lacks it. shuffled-rationales: methods with rationales learn those of other rows. few-shot: the
student before training, with the teacher's prompt. tf-idf: logistic regression on words, for closed label sets.
"""


class SearchConfig(Section):
    """Search for settings on the validation split, with equally many trials for each method.

    Trials use one fraction and the first seed. The setting with the most right answers wins, for all methods, and is used for all cells of
    its student and method.
    """

    trials: Annotated[int, Field(ge=1, le=64)] = 1
    """1: no search; every cell uses training.learning_rate and the student's own weight."""
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Fraction of the labels in trials. None: the largest of the grid."""
    learning_rate: _Range | None = None
    """[lowest, highest]: trials are spaced evenly on the logarithm."""
    weight: _Range | None = None
    """[lowest, highest] of the method's loss weight (rationale_weight, soft_weight). Each trial has another. None: the student's own."""

    steps: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None
    """Budgets that every method tries, each with all `trials`. The one at which the methods' best trials are right most often, on average,
    is the budget of the whole grid. None: the grid's own."""

    @model_validator(mode="after")
    def _trials_differ(self) -> Self:
        if self.trials > 1 and self.learning_rate is None:
            raise ValueError(f"{self.trials} trials need something to vary; give `learning_rate: [lowest, highest]`")
        if self.trials == 1 and (self.learning_rate or self.weight or self.fraction or self.steps):
            raise ValueError("with 1 trial nothing is searched; raise `trials`, or remove the rest of `search`")
        for name, bounds in (("learning_rate", self.learning_rate), ("weight", self.weight)):
            if bounds and bounds[0] >= bounds[1]:
                raise ValueError(f"{name} {bounds} is not [lowest, highest]")
        if self.learning_rate and self.learning_rate[0] <= 0.0:
            raise ValueError(f"learning_rate {self.learning_rate} must be above 0")
        if self.weight and self.weight[1] > 1.0:
            raise ValueError(f"weight {self.weight} must be at most 1")
        if self.steps and len(set(self.steps)) < len(self.steps):
            raise ValueError(f"steps {self.steps} has a duplicate; remove it")
        return self


class CompareConfig(Section):
    """The grid: every method with every fraction of the labels, student and seed."""

    methods: Annotated[list[MethodName], Field(min_length=1)] = ["finetune", "step-by-step"]
    """The table of docs/train.md lists them."""
    fractions: Annotated[list[Annotated[float, Field(gt=0.0, le=1.0)]], Field(min_length=1)] = [0.25, 1.0]
    """Of the training rows. A smaller share is part of a larger one."""
    students: Annotated[list[str], Field(min_length=1)] | None = None
    """Hub ids or folders. None: student.model."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2]
    """At least 3 for a verdict."""
    equal: Literal["steps", "tokens", "epochs"] = "steps"
    """What all cells have in common: optimizer steps, tokens, or epochs. With `training.epochs`, the common steps or tokens are those of
    the method that takes most of them for these epochs, at the largest fraction."""
    arms: list[ArmName] = ["finetune", "shuffled-rationales", "few-shot", "tf-idf"]
    """Controls that are added to the grid. [] leaves them out, and the report says so."""
    gold_fractions: Annotated[list[Annotated[float, Field(gt=0.0, le=1.0)]], Field(min_length=1)] | None = None
    """Also compare, for each share of the gold labels: finetune on these rows alone, and all rows with the teacher's label for the
    rest. At the largest fraction."""
    search: SearchConfig = SearchConfig()
    keep_students: bool = False
    """Keep the weights of every cell. Without it a cell keeps its answers and measurements."""
    price_per_worker_hour: Annotated[float, Field(ge=0.0)] | None = None
    """Price of a training or evaluation worker, for the costs in the report."""

    @model_validator(mode="after")
    def _no_cell_twice(self) -> Self:
        for name in ("methods", "fractions", "students", "seeds", "arms", "gold_fractions"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values} has a duplicate; remove it")
        return self

    @model_validator(mode="after")
    def _steps_are_equal(self) -> Self:
        if self.search.steps and self.equal != "steps":
            raise ValueError(
                f"search.steps chooses a common number of steps, and equal is {self.equal}; remove one of them"
            )
        return self
