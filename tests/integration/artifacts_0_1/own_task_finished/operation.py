"""A task of a user's own: whether a problem adds or subtracts."""

from pipelines.errors import UnparsableError
from pipelines.tasks import Answer, Example, Shot, Task


class Operation(Task):
    """The label is the operation of the gold expression."""

    name = "operation"
    version = "1"

    @property
    def labels(self):
        return ("add", "subtract")

    @property
    def shots(self):
        return (
            Shot("Anne has 2 pens and buys 3 .", "Buying is more. The answer is add."),
            Shot("Anne has 3 pens and loses 2 .", "Losing is less. The answer is subtract."),
        )

    def read(self, row):
        gold = row.get("gold")
        if gold is not None:
            gold = "add" if "+" in str(gold) else "subtract"
        return Example(id=row["id"], input=str(row["input"]), gold=gold)

    def parse(self, text, example):
        rationale, sign, label = text.partition(" The answer is ")
        if not sign:
            raise UnparsableError("it gives no answer")
        return Answer(self.normalise(label.rstrip("."), example), rationale)

    def normalise(self, label, example):
        if label not in self.labels:
            raise UnparsableError(f"{label!r} is no operation")
        return label
