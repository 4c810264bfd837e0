"""How many guests come on which day: `4 on 09-Mar`."""

import re

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks import Answer, Example, Shot, Task

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
LABEL = re.compile(r"(\d+) on (\d{1,2})-([A-Za-z]{3})")


class Booking(Task):
    name, version, parser = "booking", "1", "1"
    required = ("text",)
    instruction = (
        'For how many guests, and for which day? Give the reason, then write "The answer is GUESTS on DAY-MONTH."'
    )
    shots = (
        Shot(
            "A party of four is coming on 9 March.",
            "A party of four means 4 guests. The day is 9 March. The answer is 4 on 09-Mar.",
        ),
        Shot("Please book 2 April for 6 of us.", "They are 6 guests. The day is 2 April. The answer is 6 on 02-Apr."),
        Shot(
            "On 28 June I need a table for two, near the window.",
            "Two guests. The day is 28 June. The answer is 2 on 28-Jun.",
        ),
    )

    def read(self, row):
        text = row["text"]
        if not isinstance(text, str) or not text.strip():
            raise BadRowError("field `text`: must be text")
        example = Example(str(row["id"]), text.strip(), None)
        if row["gold"] is None:
            return example
        return Example(example.id, example.input, self.normalise(row["gold"], example))

    def parse(self, text, example):
        rationale, found, stated = text.rpartition("The answer is ")
        if not found:
            raise UnparsableError("no answer is stated")
        return Answer(self.normalise(stated, example), rationale.strip())

    def normalise(self, label, example):
        """`4 on 9-mar.` and `4 on 09-Mar` are one label."""
        found = LABEL.search(label)
        if not found or found[3].title() not in MONTHS:
            raise UnparsableError(f"{label[:40]!r} is not like `4 on 09-Mar`")
        return f"{int(found[1])} on {int(found[2]):02d}-{found[3].title()}"

    def value(self, label):
        """What the endpoint returns beside the label."""
        return label.partition(" ")[0]
