"""The common training budget of a grid: optimizer steps, tokens or epochs (`compare.equal`), the same for every cell.

In: the run file's `training.steps` or `training.epochs`, and the tokens of an epoch of every cell, which are counted once and kept in
OUTPUT/compare/budgets. Out: `Budgets`, which sets steps or epochs of each cell:

    steps   training.steps; or as many as the method with most tokens takes for training.epochs at the largest fraction
    tokens  training.steps x tokens_per_batch; or those of training.epochs of that method. Cells get epochs, which may be a fraction.
    epochs  training.epochs
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from pipelines.config import RunConfig
from pipelines.data.heldout import validation_share
from pipelines.data.label_parts import LabelParts
from pipelines.errors import UserError
from pipelines.reports.format import fraction as share_text
from pipelines.runtime.progress import Progress
from pipelines.storage.fingerprint import fingerprint, model_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.train.checks import token_settings
from pipelines.train.data.sequences import TokenSettings, in_fraction

if TYPE_CHECKING:
    from pipelines.compare.grid import Cell

Tokens = Mapping[str, int]
"""Tokens of training rows by id."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of a cell."""

    rows: int
    tokens: int
    """Unpadded, of all sequences."""

    def plus(self, other: Epoch) -> Epoch:
        """Both together."""
        return Epoch(self.rows + other.rows, self.tokens + other.tokens)


@dataclass(frozen=True)
class Budgets:
    """What each cell is trained for."""

    steps: int | None = None
    tokens: int | None = None
    epochs: Mapping[str, Epoch] = field(default_factory=dict)
    """By `epoch_key`. Empty if no cell's budget depends on it."""
    text: str = ""
    """The rule and the budget, as a sentence."""

    def of(self, cell: Cell) -> dict[str, Any]:
        """The keys of `training` that give a cell its budget. Empty: those of the run file."""
        if self.steps is not None:
            return {"steps": self.steps, "epochs": None}
        if self.tokens is not None:
            return {"steps": None, "epochs": self.tokens / self.epochs[epoch_key(cell)].tokens}
        return {}


def epoch_key(cell: Cell) -> str:
    """Cells with the same key learn from the same rows by the same method. Moved rationales leave the tokens as they are."""
    gold = cell.gold_fraction if cell.treatment == "gold-only" else None
    return json.dumps([cell.student, cell.method, cell.fraction, cell.seed, gold])


def grid_budgets(
    run: RunConfig, labels: Manifest, labels_at: str, cells: list[Cell], runs: Mapping[str, RunConfig]
) -> Budgets:
    """The budgets of all cells.

    Args:
        cells: of the grid and its search.
        runs: by `epoch_key`, the run that trains one of its cells, without a budget.

    Raises:
        UserError: a cell has too few rows for one step, or an equal budget cannot be derived.
    """
    training, equal = run.training, run.compare.equal
    if equal == "epochs":
        if training.epochs is None:
            rule = "training.steps gives all cells equal steps"
            raise UserError("compare.equal epochs", rule, "Set training.epochs, or equal: steps.")
        return Budgets(
            text=f"All cells take {training.epochs:g} epochs, so that methods with more tokens take more steps."
        )
    if run.student.init.vocabulary is not None:
        # The training makes the tokenizer, so that tokens cannot be counted before.
        if equal == "steps" and training.steps is not None:
            return Budgets(steps=training.steps, text=f"All cells take {training.steps:,} optimizer steps.")
        rule = "tokens cannot be counted before training makes the tokenizer (student.init.vocabulary)"
        raise UserError(f"compare.equal {equal}", rule, "Set training.steps with equal: steps, or equal: epochs.")
    epochs = _epochs(run, labels, labels_at, cells, runs)
    _check_reach(run, cells, epochs)
    found = _common(run, cells, epochs)
    if run.compare.search.steps:
        tried = ", ".join(f"{steps:,}" for steps in run.compare.search.steps)
        return replace(
            found, text=f"All cells take equally many optimizer steps: the search chooses them from {tried}."
        )
    return found


def _common(run: RunConfig, cells: list[Cell], epochs: Mapping[str, Epoch]) -> Budgets:
    training, batch = run.training, run.training.tokens_per_batch
    if training.steps is not None:
        tokens, rule = training.steps * batch, "training.steps"
    else:
        assert training.epochs is not None
        seed, share = run.compare.seeds[0], max(run.compare.fractions)
        plain = [cell for cell in cells if (cell.treatment, cell.seed, cell.fraction) == (None, seed, share)]
        longest = max(plain, key=lambda cell: epochs[epoch_key(cell)].tokens)
        tokens = math.ceil(training.epochs * epochs[epoch_key(longest)].tokens)
        rule = f"{training.epochs:g} epochs of {longest.method}, which has most tokens, with {share_text(share)} of the labels"
    if run.compare.equal == "tokens":
        return Budgets(tokens=tokens, epochs=epochs, text=f"All cells take {tokens:,} tokens: {rule}.")
    steps = math.ceil(tokens / batch)
    return Budgets(steps=steps, epochs=epochs, text=f"All cells take {steps:,} optimizer steps: {rule}.")


def _check_reach(run: RunConfig, cells: list[Cell], epochs: Mapping[str, Epoch]) -> None:
    """Refuse cells whose rows do not fill a step: their steps would be smaller than those of the others."""
    smallest = min(cells, key=lambda cell: epochs[epoch_key(cell)].tokens)
    size, batch = epochs[epoch_key(smallest)], run.training.tokens_per_batch
    if size.tokens >= batch:
        return
    share = "fractions" if smallest.gold_fraction is None else "gold_fractions"
    rule = f"a step needs more tokens than all {size.rows:,} rows of {smallest.title} have ({size.tokens:,}), so that budgets are not equal"
    remedy = f"Set it to at most {size.tokens}, or raise compare.{share}." if size.rows else f"Raise compare.{share}."
    raise UserError(f"training.tokens_per_batch {batch}", rule, remedy)


def _epochs(
    run: RunConfig, labels: Manifest, labels_at: str, cells: list[Cell], runs: Mapping[str, RunConfig]
) -> dict[str, Epoch]:
    """One epoch of each key, counted once for each student and method."""
    found: dict[str, Epoch] = {}
    cache = Store(run.output).child("compare/budgets")
    with_gold: set[str] | None = None
    labelled = LabelParts.of(Store(labels_at))
    # Cells with given steps need no more than to fill one of them. Of a large corpus, this is seen in the first rows.
    enough = run.training.tokens_per_batch if run.compare.equal == "steps" and run.training.steps is not None else None
    for student, method in dict.fromkeys((cell.student, cell.method) for cell in cells):
        own = {epoch_key(cell): cell for cell in cells if (cell.student, cell.method) == (student, method)}
        settings = token_settings(runs[next(iter(own))])
        decides = {
            **asdict(settings),
            "model": model_fingerprint(student),
            "fraction": None,
            "seed": None,
            "validation": validation_share(run.corpus.validation),
        }
        identity = {
            "labels": labels.fingerprint,
            "content": labels.details.get("content"),
            "tokens": decides,
            "keys": sorted(own),
            "enough": enough,
        }
        name = f"{fingerprint(identity)[:16]}.json"
        if (known := _counted(cache, name)) is not None:
            found |= known
            continue
        if with_gold is None and any(cell.treatment == "gold-only" for cell in own.values()):
            with_gold = {row["id"] for row in labelled.read_rows("data", ["id", "gold"]) if row["gold"]}
        sizes = dict.fromkeys(own, Epoch(0, 0))
        with Progress(f"tokens of {method}", labelled.num_rows("data"), "rows") as progress:
            for tokens in row_tokens(labelled, settings):
                for key, cell in own.items():
                    sizes[key] = sizes[key].plus(_epoch(cell, tokens, with_gold or set()))
                progress.advance(len(tokens))
                if enough is not None and all(size.tokens >= enough for size in sizes.values()):
                    break
        cache.write(name, json.dumps({key: asdict(size) for key, size in sizes.items()}).encode())
        found |= sizes
    return found


def _counted(cache: Store, name: str) -> dict[str, Epoch] | None:
    """The sizes that an earlier run has counted; None if there are none, or if they are damaged."""
    if not cache.exists(name):
        return None
    try:
        return {key: Epoch(**size) for key, size in json.loads(cache.read(name)).items()}
    except (ValueError, TypeError, AttributeError):
        return None


def _epoch(cell: Cell, tokens: Tokens, with_gold: set[str]) -> Epoch:
    rows = [row for row in tokens if in_fraction(row, cell.fraction, cell.seed)]
    if cell.treatment == "gold-only":
        share = (cell.gold_fraction or 0.0) * cell.fraction
        rows = [row for row in rows if row in with_gold and in_fraction(row, share, cell.seed)]
    return Epoch(len(rows), sum(tokens[row] for row in rows))


def row_tokens(labels: LabelParts, settings: TokenSettings) -> Iterator[Tokens]:
    """Tokens of the training rows that the method can learn, in one epoch, table by table. If it learns rationales in turn, a mean."""
    import pyarrow.compute as pc

    from pipelines.train.data.rotation import EVERY_EPOCH
    from pipelines.train.data.tokenise import encode_part

    for table in chain.from_iterable(
        encode_part(labels, name, replace(settings, fraction=1.0)) for name in labels.names("data")
    ):
        found: dict[str, int] = {}
        in_turn: dict[str, list[int]] = {}
        used = table.filter(pc.and_(pc.is_null(table["dropped"]), pc.invert(table["validation"])))
        sizes = pc.add(pc.list_value_length(used["prompt"]), pc.list_value_length(used["target"]))
        columns = (used["id"].to_pylist(), sizes.to_pylist(), used["turn"].to_pylist())
        for row, size, turn in zip(*columns, strict=True):
            if turn == EVERY_EPOCH:
                found[row] = found.get(row, 0) + size
            else:
                in_turn.setdefault(row, []).append(size)
        for row, each in in_turn.items():
            found[row] = found.get(row, 0) + round(sum(each) / len(each))
        yield found
