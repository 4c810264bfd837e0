"""Constrained decoding: an answer that is a label of its closed set by construction.

The student first answers freely. Most answers are labels as trained, and stay. Every other answer is replaced by a walk through the label
set: at each step the likeliest token that continues some label. Both are the same greedy path, so all engines decode alike:

    labels      `a b </s>`, `a c </s>`, `d </s>`
    free        `a x ...`       outside the set from its 2nd token on
    walk        `a`, then the likelier of `b` and `c`, then `</s>`

A step needs scores only if several tokens continue. The free answer has those of the first step outside the set, which often decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.methods import METHODS, written_labels
from pipelines.students.decoding.label_scores import STATEMENT, LabelSet, Scores, has_label_set, log_sum_exp
from pipelines.students.decoding.requests import GenerationOutput, GenerationRequest
from pipelines.students.decoding.tokens import tokens_within
from pipelines.tasks.parsing.answers import first_answer

if TYPE_CHECKING:
    from pipelines.tasks.base import Example, Task


def check_constrained(key: str, method: str, task: Task, examples: Sequence[Example] = ()) -> None:
    """Refuse to constrain answers that have no closed label set.

    Args:
        key: the run file's key, for the message.
        examples: some that will be answered.

    Raises:
        UserError: labels are free, or a text of the method does not state its label with `answer is`.
    """
    from pipelines.tasks.base import Example

    if not task.is_closed:
        rule = f"the labels of task {task.name} are free, and only a closed label set can constrain an answer"
        raise UserError(f"{key} true", rule, f"Set {key}: false, or give the task a closed label set.")
    some = [Example("", "", None)] if task.labels else examples
    part = METHODS[method].answer
    if not all(has_label_set(part, written_labels(method, task, example)) for example in some):
        rule = f"method {method} writes the label in a text, and task {task.name} does not state it with `{STATEMENT}`"
        raise UserError(f"{key} true", rule, f"Set {key}: false, or train a method that writes only the label.")


@dataclass
class LabelWalk:
    """One answer that is replaced. While `choices` is not empty, `take` expects their scores after the prompt and `written`."""

    request: GenerationRequest
    written: list[int]
    """Tokens of the answer so far."""

    def __post_init__(self) -> None:
        self._node, self._terms = _labels(self.request).trie, list[float]()
        self._follow()

    @property
    def choices(self) -> tuple[int, ...]:
        """Tokens that may come next; empty at the end of a label."""
        return tuple(sorted(self._node))

    @property
    def next_request(self) -> GenerationRequest:
        """Request for one token whose output has the scores of `choices`."""
        choices = LabelSet(tuple((token,) for token in self.choices))
        return replace(self.request, max_new_tokens=1, labels=choices, written=tuple(self.written))

    def take(self, scores: Sequence[float]) -> None:
        """Write the likeliest choice, and all tokens that follow without a choice. `scores`: log-probabilities up to a constant."""
        best = max(range(len(scores)), key=scores.__getitem__)
        self._terms.append(scores[best] - log_sum_exp(scores))
        self._write(self.choices[best])

    def take_free(self, ids: Sequence[int], scores: Scores) -> None:
        """Take as many steps as the free answer has scores for."""
        watched = _labels(self.request).watched
        while self._node and tuple(self.written) == tuple(ids[: len(self.written)]) and len(self.written) < len(ids):
            by_token = dict(zip(watched, scores(len(self.written)), strict=True))
            self.take([by_token[token] for token in self.choices])

    def output(self, free: GenerationOutput) -> GenerationOutput:
        """The label, after the last step. `free`: the answer that it replaces, unless the walk only scored that answer."""
        log_prob, ids = min(math.fsum(self._terms), 0.0), tuple(self.written)
        if ids == free.ids:
            return replace(free, label_log_prob=log_prob)
        return GenerationOutput(ids, (), free.prompt_tokens, "stop", log_prob) if self.request.constrained else free

    def _write(self, token: int) -> None:
        self.written.append(token)
        self._node = self._node[token]
        self._follow()

    def _follow(self) -> None:
        while len(self._node) == 1:
            [token] = self._node
            self.written.append(token)
            self._node = self._node[token]


def label_walk(
    request: GenerationRequest, output: GenerationOutput, scores: Scores | None, tokenizer: Any
) -> LabelWalk | None:
    """The walk that replaces a free answer. None if the answer is a label, or need not be one.

    Args:
        scores: of the watched tokens at each step. None: unknown, so that a walk also scores an answer that is a label.
    """
    if request.labels is None:
        return None
    first = request.labels.first(output.ids) if scores is None else None
    if first is not None:
        return LabelWalk(request, list(output.ids[:first]))
    walk = _replacement(request, output, tokenizer) if request.constrained else None
    if walk is not None and scores is not None:
        walk.take_free(output.ids, scores)
    return walk


def _replacement(request: GenerationRequest, output: GenerationOutput, tokenizer: Any) -> LabelWalk | None:
    labels = _labels(request)
    if not labels.at_end:
        return LabelWalk(request, []) if output.label_log_prob is None else None
    text = output.text(tokenizer)
    # A parser reads neither beyond a second question nor beyond the first statement.
    answer_end = len(text) - len(text.lstrip()) + len(first_answer(text))
    if output.label_log_prob is not None and answer_end >= len(text.rstrip()):
        return None
    statement = text.find(STATEMENT)
    end = answer_end if statement < 0 else min(statement, answer_end)
    kept = list(output.ids[: tokens_within(output.ids, end, tokenizer)])
    if end != statement:
        room = request.max_new_tokens - len(labels.lead) - labels.longest
        kept = [*kept[: max(room, 0)], *labels.lead]
    return LabelWalk(request, kept)


def _labels(request: GenerationRequest) -> LabelSet:
    assert request.labels is not None, "constrained requests have a label set"
    return request.labels
