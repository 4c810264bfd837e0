"""Choice of the next token for each row of a batch: greedy, or drawn.

torch's own sampling draws random numbers for a whole batch, so an answer would depend on the other rows. Here each drawn row has its
own random stream.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.students.decoding.label_scores import Scores
from pipelines.students.decoding.requests import GenerationRequest, Sampling

OnTokens = Callable[[list[int | None]], None]
"""Called after each step with the token of each row; None if the row had ended before."""
IsCancelled = Callable[[int], bool]
"""True if the row's client has disconnected. Called after each step, in the thread that generates."""
OnEnd = Callable[[int, list[int], list[float]], None]
"""Called when a row ends: its number, its tokens and their log-probabilities. Other rows may take longer."""


class Sampler:
    """Logits processor of `generate` that selects one token per row.

    It records the tokens and their log-probabilities in the student's own distribution. Recording the scores instead would hold
    steps x batch x vocabulary floats: 2.5 GB for 64 x 64 and a vocabulary of 152k.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        eos: int,
        on_tokens: OnTokens | None = None,
        is_cancelled: IsCancelled | None = None,
        on_end: OnEnd | None = None,
    ) -> None:
        self.log_probs: list[Any] = []
        """One tensor per step, (batch,)."""
        self._scores: list[Any] = []
        self._widths = [len(request.watched) for request in requests]
        self._watched: Any = _watched(requests) if any(self._widths) else None
        self._eos, self._on_tokens, self._is_cancelled, self._on_end = eos, on_tokens, is_cancelled, on_end
        self._tokens: list[list[int]] = [[] for _ in requests]
        """Of each row, if `on_end` is set."""
        self._remaining = [request.max_new_tokens for request in requests]
        self._rows = [row for row, request in enumerate(requests) if request.sampling]
        self._samplings = [request.sampling for request in requests if request.sampling]
        self._streams = [random_stream(requests[row]) for row in self._rows]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """`scores`: logits, (batch, vocabulary). Returned unchanged if no row draws: `generate` itself chooses greedily."""
        import torch

        logits = scores.float()
        total = logits.logsumexp(dim=-1)
        if self._watched is not None:
            self._watched = self._watched.to(logits.device)
            self._scores.append(logits.gather(-1, self._watched))
        if not self._rows:
            best, tokens = logits.max(dim=-1)
            self._record(tokens, best - total)
            return scores
        tokens = logits.argmax(dim=-1)
        uniform = [stream.random() for stream in self._streams]
        tokens[self._rows] = draw(logits[self._rows], self._samplings, uniform)
        chosen = tokens.unsqueeze(-1)
        self._record(tokens, logits.gather(-1, chosen)[:, 0] - total)
        return torch.full_like(scores, -math.inf).scatter(-1, chosen, 0.0)

    def scores(self) -> list[Scores]:
        """For each row the logits of its watched tokens at each step so far."""
        import torch

        rows = torch.stack(self._scores, dim=1).tolist() if self._scores else [[]] * len(self._widths)
        return [_scores_of(row, width) for row, width in zip(rows, self._widths, strict=True)]

    def ended(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Stopping criterion of `generate`: True for each row, (batch,), that has its length or is cancelled."""
        import torch

        done = [not remaining or self._row_is_cancelled(row) for row, remaining in enumerate(self._remaining)]
        return torch.tensor(done, device=input_ids.device)

    def _row_is_cancelled(self, row: int) -> bool:
        return self._is_cancelled is not None and self._is_cancelled(row)

    def _record(self, tokens: Any, log_probs: Any) -> None:
        self.log_probs.append(log_probs)
        if self._on_tokens is None and self._on_end is None:
            self._remaining = [max(remaining - 1, 0) for remaining in self._remaining]
            return
        # generate() replaces tokens after a row's end with padding only later.
        steps = zip(tokens.tolist(), self._remaining, strict=True)
        new = [token if remaining else None for token, remaining in steps]
        self._remaining = [
            0 if token in (self._eos, None) else remaining - 1
            for token, remaining in zip(new, self._remaining, strict=True)
        ]
        if self._on_tokens is not None:
            self._on_tokens(new)
        if self._on_end is not None:
            self._report_ends(new, self._on_end)

    def _report_ends(self, new: list[int | None], on_end: OnEnd) -> None:
        import torch

        for row, token in enumerate(new):
            if token is None:
                continue
            self._tokens[row].append(token)
            if not self._remaining[row]:
                on_end(row, self._tokens[row], torch.stack([step[row] for step in self.log_probs]).tolist())


def _watched(requests: Sequence[GenerationRequest]) -> Any:
    """Ids of each row's watched tokens, (batch, most of a row), padded with 0."""
    import torch

    most = max(len(request.watched) for request in requests)
    return torch.tensor([[*request.watched, *[0] * (most - len(request.watched))] for request in requests])


def _scores_of(steps: list[list[float]], width: int) -> Scores:
    return lambda step: steps[step][:width]


def random_stream(request: GenerationRequest) -> random.Random:
    """Random stream of one request: one uniform number per token."""
    sampling = request.sampling or Sampling(1.0)
    return random.Random(f"{sampling.seed}/{sampling.draw}/{request.prompt}")


def draw(logits: Any, samplings: Sequence[Sampling], uniform: Sequence[float]) -> Any:
    """Draw one token per row, (rows,), by inverting the cumulative distribution in the order of the vocabulary.

    Args:
        logits: (rows, vocabulary).
        uniform: one number in [0, 1) per row.
    """
    import torch

    temperature = torch.tensor([[s.temperature] for s in samplings], device=logits.device)
    probabilities = (logits / temperature).softmax(dim=-1).double()
    if any(s.top_p < 1.0 for s in samplings):
        top_p = torch.tensor([[s.top_p] for s in samplings], dtype=torch.double, device=logits.device)
        sorted_probabilities, indices = probabilities.sort(dim=-1, descending=True)
        # A token stays while the likelier ones sum to less than top_p; the likeliest always stays.
        before = sorted_probabilities.cumsum(dim=-1) - sorted_probabilities
        kept = sorted_probabilities.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(kept).scatter(-1, indices, kept)
    cumulative = probabilities.cumsum(dim=-1)
    target = torch.tensor([[u] for u in uniform], dtype=torch.double, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
