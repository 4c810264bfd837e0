"""Generated corpus for natural language inference.

In: a count and a seed. Out: rows, a third of each label. Equal arguments give equal rows on every machine:

    {"id": "pairs-train-0", "premise": "A man is reading a book in a kitchen.", "hypothesis": "The man is in a park.",
     "label": "contradiction", "explanation": "The premise says that he is in a kitchen, so he is not in a park."}

A premise states an activity of a person, and often place, time or company. A hypothesis makes a claim about one of these, which the
premise states, rules out or leaves open. The hypothesis alone does not reveal the label. Training and test rows come from different
sentence templates. `explanation` gives the reason without naming the label.

`python -m pipelines.recipes.nli_pairs FOLDER` writes train.jsonl, test.jsonl and teacher.jsonl. The last file holds answers for both
corpora in the format of a recorded teacher, {"id", "output"}. This module generates them from the explanations: NO MODEL WROTE THEM.
A few percent are wrong or unreadable on purpose, like a teacher's.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.recipes.rows import SEED, TEST_ROWS, TRAIN_ROWS, Row, draw_unused, write_rows
from pipelines.tasks.nli import LABELS

WRONG_SHARE = 0.04
UNREADABLE_SHARE = 0.02


@dataclass(frozen=True)
class Activity:
    """An activity: `exact` implies `general`, but not the reverse."""

    exact: str
    general: str


_PEOPLE = {
    "man": "he",
    "woman": "she",
    "boy": "he",
    "girl": "she",
    "farmer": "he",
    "teacher": "she",
    "nurse": "she",
    "student": "he",
}
# Each activity takes both hands, and no place contains another: only one of each can be true at a time.
_ACTIVITIES = (
    Activity("reading a novel", "reading something"),
    Activity("playing the guitar", "playing an instrument"),
    Activity("feeding a horse", "feeding an animal"),
    Activity("washing a shirt", "washing something"),
    Activity("painting a door", "painting something"),
    Activity("carrying a ladder", "carrying something"),
    Activity("repairing a clock", "repairing something"),
    Activity("peeling an apple", "peeling a piece of fruit"),
    Activity("baking a cake", "baking something"),
    Activity("sewing a dress", "sewing something"),
)
_PLACES = (
    "in a kitchen",
    "in a park",
    "at a train station",
    "in a library",
    "in a garage",
    "in a forest",
    "on a boat",
    "at a beach",
)
_TIMES = ("in the morning", "at noon", "in the evening", "at night")
_COMPANY = ("alone", "with a friend")
_CIRCUMSTANCES: dict[str, tuple[str, ...]] = {"place": _PLACES, "time": _TIMES, "company": _COMPANY}


@dataclass(frozen=True)
class Frames:
    """Sentence templates of a split. `{scene}` holds activity, place, time and company."""

    premise: tuple[str, ...]
    activity: tuple[str, ...]
    place: tuple[str, ...]
    time: tuple[str, ...]
    company: tuple[str, ...]


TRAIN_FRAMES = Frames(
    premise=(
        "A {who} is {scene}.",
        "There is a {who} who is {scene}.",
        "The picture shows a {who} {scene}.",
        "A {who} wearing a red coat is {scene}.",
        "In this photo, a {who} is {scene}.",
        "A young {who} is {scene}.",
    ),
    activity=("The {who} is {claim}.", "A {who} is {claim}.", "The {who} in the picture is {claim}."),
    place=("The {who} is {claim}.", "A {who} is {claim}.", "This happens {claim}."),
    time=("This happens {claim}.", "The {who} does this {claim}.", "The {who} is doing this {claim}."),
    company=("The {who} is {claim}.", "A {who} is {claim}.", "The {who} does this {claim}."),
)
TEST_FRAMES = Frames(
    premise=(
        "In the picture, a {who} is {scene}.",
        "A {who} wearing a blue hat is {scene}.",
        "We see a {who} {scene}.",
    ),
    activity=("The person is {claim}.", "The person whom we see is {claim}."),
    place=("The person is {claim}.", "It happens {claim}."),
    time=("It happens {claim}.", "The person does this {claim}."),
    company=("The person is {claim}.", "The person is doing this {claim}."),
)
ASPECTS = ("activity", "place", "time", "company")


def train_rows(count: int, seed: int) -> list[Row]:
    """Generate rows from the training templates. Labels and aspects alternate."""
    return _rows("train", TRAIN_FRAMES, count, seed)


def test_rows(count: int, seed: int) -> list[Row]:
    """Generate rows from the held-out templates."""
    return _rows("test", TEST_FRAMES, count, seed)


def teacher_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """Generate teacher answers for rows, in the format of the task's shots. Not the output of a model."""
    generator = random.Random(f"nli teacher, seed {seed}")
    return [{"id": row["id"], "output": _output(row, generator)} for row in rows]


def _rows(split: str, frames: Frames, count: int, seed: int) -> list[Row]:
    generator = random.Random(f"nli pairs, {split}, seed {seed}")
    plan = [(LABELS[i % len(LABELS)], ASPECTS[i // len(LABELS) % len(ASPECTS)]) for i in range(count)]
    generator.shuffle(plan)
    used: set[tuple[str, str, str]] = set()
    rows = []
    for i, (label, aspect) in enumerate(plan):
        premise, hypothesis, explanation = draw_unused(partial(_pair, label, aspect, frames, generator), used)
        row = {"id": f"pairs-{split}-{i}", "premise": premise, "hypothesis": hypothesis, "label": label}
        rows.append({**row, "explanation": explanation})
    return rows


def _pair(label: str, aspect: str, frames: Frames, generator: random.Random) -> tuple[str, str, str]:
    """Generate (premise, hypothesis, explanation)."""
    who = generator.choice(tuple(_PEOPLE))
    activity = generator.choice(_ACTIVITIES)
    scene = {"activity": activity.exact}
    for other in ("company", "place", "time"):
        if other != aspect and generator.random() < 0.5:
            scene[other] = generator.choice(_CIRCUMSTANCES[other])
    if aspect == "activity":
        stated, claim, explanation = _about_activity(label, activity, generator)
        scene["activity"] = stated
    else:
        claim = generator.choice(_CIRCUMSTANCES[aspect])
        explanation = _about_circumstance(label, aspect, claim, scene, generator)
    premise = generator.choice(frames.premise).format(
        who=who, scene=" ".join(scene[part] for part in ("activity", "company", "place", "time") if part in scene)
    )
    hypothesis = generator.choice(getattr(frames, aspect)).format(who=who, claim=claim)
    return premise, hypothesis, explanation.format(who=who, he=_PEOPLE[who])


def _about_activity(label: str, activity: Activity, generator: random.Random) -> tuple[str, str, str]:
    """Choose (statement of the premise, claim of the hypothesis, explanation)."""
    if label == "entailment":
        claim = generator.choice((activity.exact, activity.general))
        if claim == activity.exact:
            return activity.exact, claim, f"The premise says that the {{who}} is {claim}."
        return activity.exact, claim, f"Someone who is {activity.exact} is {claim}."
    if label == "neutral":
        explanation = f"The {{who}} is {activity.general}, but {{he}} need not be {activity.exact}."
        return activity.general, activity.exact, explanation
    other = generator.choice([a for a in _ACTIVITIES if a is not activity])
    claim = generator.choice((other.exact, other.general))
    return activity.exact, claim, f"The {{who}} is {activity.exact}, so {{he}} is not {claim}."


def _about_circumstance(label: str, aspect: str, claim: str, scene: dict[str, str], generator: random.Random) -> str:
    """Add to the scene what the label needs. Returns the explanation."""
    subject = "it" if aspect == "time" else "{he}"
    if label == "neutral":
        question = {"place": "where the {who} is", "time": "when it happens", "company": "who else is there"}[aspect]
        return f"The premise does not say {question}, so {subject} could be {claim} or not."
    if label == "entailment":
        scene[aspect] = claim
        return f"The premise says that {subject} is {claim}."
    scene[aspect] = generator.choice([other for other in _CIRCUMSTANCES[aspect] if other != claim])
    return f"The premise says that {subject} is {scene[aspect]}, so {subject} is not {claim}."


def _output(row: Row, generator: random.Random) -> str:
    draw = generator.random()
    if draw < UNREADABLE_SHARE:
        return f"{row['explanation']} It is hard to say"
    label = row["label"]
    if draw < UNREADABLE_SHARE + WRONG_SHARE:
        label = generator.choice([other for other in LABELS if other != label])
    return f"{row['explanation']} The answer is {label}."


def main(arguments: Sequence[str]) -> None:
    """Write the shipped corpus and its generated teacher answers to a folder."""
    if len(arguments) != 1:
        sys.exit("Usage: python -m pipelines.recipes.nli_pairs FOLDER")
    folder = Path(arguments[0])
    train, test = train_rows(TRAIN_ROWS, SEED), test_rows(TEST_ROWS, SEED)
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "test.jsonl", test)
    write_rows(folder / "teacher.jsonl", teacher_rows([*train, *test], SEED))


if __name__ == "__main__":
    main(sys.argv[1:])
