"""What tasks share whose label is a number, or an expression of numbers."""

from __future__ import annotations

from pipelines.tasks.base import Answer, Example, Task
from pipelines.tasks.parsing.conclusions import ends_with_value, states_value
from pipelines.tasks.parsing.expressions import evaluate_expression, format_value, value_key
from pipelines.tasks.parsing.giveaways import calculates_nothing


class NumberTask(Task):
    """Labels are compared by their value."""

    def gives_away(self, answer: Answer, example: Example) -> bool:
        return calculates_nothing(answer.rationale, evaluate_expression(answer.label))

    def leads_to(self, rationale: str, label: str, example: Example) -> bool:
        return ends_with_value(rationale, self.key(label))

    def states(self, rationale: str, label: str, example: Example) -> bool:
        return states_value(rationale, self.key(label), example.input)

    def key(self, label: str) -> str:
        """Value rounded to 6 decimals: equal for `4 - 2 - 1` and `1.0`, and for `10 / 3` and `3.333333`."""
        return value_key(evaluate_expression(label))

    def value(self, label: str) -> str:
        return format_value(evaluate_expression(label))
