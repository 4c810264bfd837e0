"""The arm `tf-idf`: logistic regression on the words of the inputs, the cheapest system that learns from the same rows.

In: the training rows of a fraction and a seed. Out: for each scored example, True if the predicted label is right. Words and pairs of words
count with their TF-IDF weight; the regression is scikit-learn's with its default penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.config import RunConfig
from pipelines.data.heldout import validation_share
from pipelines.data.label_parts import LabelParts
from pipelines.scoring.systems import gold_of
from pipelines.tasks import Example, Task
from pipelines.train.data.sequences import in_fraction


@dataclass(frozen=True)
class TfIdf:
    """Right answers of the regressions of one fraction."""

    fraction: float
    rows: float
    """Training rows, mean over seeds."""
    rights: list[list[bool]]
    """(seeds, examples)"""


def score_tf_idf(
    run: RunConfig, labels: LabelParts, examples: Sequence[Example], task: Task, *, gold: bool
) -> list[TfIdf]:
    """Fit and score for each fraction and seed of the grid.

    Args:
        gold: True: learn gold labels, which all rows have. False: the teacher's.
    """
    share, column = validation_share(run.corpus.validation), "gold" if gold else "label"
    rows = [(row["id"], row["input"], row[column]) for row in labels.training_rows(share, ["input", column])]
    found = []
    for fraction in sorted(run.compare.fractions):
        used = [[row for row in rows if in_fraction(row[0], fraction, seed)] for seed in run.compare.seeds]
        rights = [_rights(some, examples, task) for some in used]
        found.append(TfIdf(fraction, sum(map(len, used)) / len(used), rights))
    return found


def _rights(rows: Sequence[tuple[str, str, str]], examples: Sequence[Example], task: Task) -> list[bool]:
    """`rows`: (id, input, label)."""
    keys = [task.key(label) for *_, label in rows]
    golds = [task.key(gold_of(example)) for example in examples]
    if len(set(keys)) < 2:  # nothing to separate
        return [gold in keys for gold in golds]
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # Every text has a token, whatever its script: the default pattern drops single characters.
    words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(max_iter=1000))
    model.fit([text for _, text, _ in rows], keys)
    predicted = model.predict([example.input for example in examples])
    return [found == gold for found, gold in zip(predicted.tolist(), golds, strict=True)]
