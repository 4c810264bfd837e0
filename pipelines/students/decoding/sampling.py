"""Which token comes next, for each row of a batch: the likeliest, or one that is drawn.

torch's own sampling takes its numbers for a whole batch, so that an answer would depend on what else is in the batch.
Here each row that draws has a stream of chance of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.students.decoding.label_scores import Scores
from pipelines.students.decoding.requests import GenerationRequest, Sampling

OnTokens = Callable[[list[int | None]], None]
"""Called after each step with the token of each row; None where the row had ended before."""
Gone = Callable[[int], bool]
"""Whether nobody waits for a row any more. Asked after each step, by the thread that writes."""


class Sampler:
    """A logits processor of `generate` that leaves each row one token, the chosen one.

    It notes the tokens and their log-probabilities in the student's own distribution. Keeping the scores instead would hold
    steps x batch x vocabulary floats: 2.5 GB for 64 x 64 of a 152k vocabulary.
    """

    def __init__(
        self, orders: Sequence[GenerationRequest], eos: int, on_tokens: OnTokens | None = None, gone: Gone | None = None
    ) -> None:
        self.log_probs: list[Any] = []
        """One (batch,) tensor for each step."""
        self._scores: list[Any] = []
        self._widths = [len(order.watched) for order in orders]
        self._watched: Any = _watched(orders) if any(self._widths) else None
        self._eos, self._on_tokens, self._gone = eos, on_tokens, gone
        self._left = [order.max_new_tokens for order in orders]
        self._rows = [row for row, order in enumerate(orders) if order.sampling]
        self._samplings = [order.sampling for order in orders if order.sampling]
        self._streams = [stream(orders[row]) for row in self._rows]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """`scores`: (batch, vocabulary) logits. Returned unchanged where no row draws: the greedy choice is generate's own."""
        import torch

        logits = scores.float()
        total = logits.logsumexp(dim=-1)
        if self._watched is not None:
            self._watched = self._watched.to(logits.device)
            self._scores.append(logits.gather(-1, self._watched))
        if not self._rows:
            best, tokens = logits.max(dim=-1)
            self._note(tokens, best - total)
            return scores
        tokens = logits.argmax(dim=-1)
        uniform = [chance.random() for chance in self._streams]
        tokens[self._rows] = draw(logits[self._rows], self._samplings, uniform)
        chosen = tokens.unsqueeze(-1)
        self._note(tokens, logits.gather(-1, chosen)[:, 0] - total)
        return torch.full_like(scores, -math.inf).scatter(-1, chosen, 0.0)

    def scores(self) -> list[Scores]:
        """Of each row, those of the tokens that its set watches: their logits at each step so far."""
        import torch

        rows = torch.stack(self._scores, dim=1).tolist() if self._scores else [[]] * len(self._widths)
        return [_scores_of(row, width) for row, width in zip(rows, self._widths, strict=True)]

    def ended(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion of `generate`: which rows, (batch,), have all their order says, or nobody who waits for them."""
        import torch

        done = [not left or self._is_gone(row) for row, left in enumerate(self._left)]
        return torch.tensor(done, device=input_ids.device)

    def _is_gone(self, row: int) -> bool:
        return self._gone is not None and self._gone(row)

    def _note(self, tokens: Any, log_probs: Any) -> None:
        self.log_probs.append(log_probs)
        if self._on_tokens is None:
            self._left = [max(left - 1, 0) for left in self._left]
            return
        # generate() puts padding after a row's end only later.
        told = [token if left else None for token, left in zip(tokens.tolist(), self._left, strict=True)]
        self._left = [0 if t in (self._eos, None) else left - 1 for t, left in zip(told, self._left, strict=True)]
        self._on_tokens(told)


def _watched(orders: Sequence[GenerationRequest]) -> Any:
    """Ids of the tokens that each row's set watches, (batch, the most that one does), padded with 0."""
    import torch

    most = max(len(order.watched) for order in orders)
    return torch.tensor([[*order.watched, *[0] * (most - len(order.watched))] for order in orders])


def _scores_of(steps: list[list[float]], width: int) -> Scores:
    return lambda step: steps[step][:width]


def stream(order: GenerationRequest) -> random.Random:
    """The stream of chance of one order: one uniform number for each of its tokens."""
    sampling = order.sampling or Sampling(1.0)
    return random.Random(f"{sampling.seed}/{sampling.draw}/{order.prompt}")


def draw(logits: Any, samplings: Sequence[Sampling], uniform: Sequence[float]) -> Any:
    """The token, (rows,), at which each row's distribution has summed up to its uniform number, in the order of the vocabulary.

    Args:
        logits: (rows, vocabulary).
        uniform: one number in [0, 1) for each row.
    """
    import torch

    temperature = torch.tensor([[s.temperature] for s in samplings], device=logits.device)
    probabilities = (logits / temperature).softmax(dim=-1).double()
    if any(s.top_p < 1.0 for s in samplings):
        top_p = torch.tensor([[s.top_p] for s in samplings], dtype=torch.double, device=logits.device)
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token stays while those before it have not reached top_p: the likeliest always does.
        kept = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= top_p, 0.0)
        probabilities = torch.zeros_like(kept).scatter(-1, order, kept)
    summed = probabilities.cumsum(dim=-1)
    at = torch.tensor([[u] for u in uniform], dtype=torch.double, device=logits.device) * summed[:, -1:]
    return torch.searchsorted(summed, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
