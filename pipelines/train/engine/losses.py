"""The terms of the losses, and the student's model with them as one module. Pure functions of torch.

Every term is a sum over what a micro-batch holds; the step's loss is the sum of all micro-batches of all workers, each term divided by
what the whole step counts, and weighted. So one worker and eight, with accumulation and without, have the same loss:

    step-by-step: labels [2 tokens: nll 1.0, 3.0], rationales [4 tokens: nll 0.5 each], w = 0.5
    loss = 0.5 x (1.0 + 3.0) / 2 + 0.5 x (4 x 0.5) / 4 = 1.25

Sources: step-by-step, Hsieh et al. 2023, "Distilling Step-by-Step!", equation 4, with each task's loss a mean over its own tokens. Soft
labels, Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2. Divergences of tokens, Agarwal et al. 2024,
"On-Policy Distillation of Language Models", section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipelines.train.loss_terms import PARTS, TERMS

_CHUNK_ELEMENTS = {False: 1 << 18, True: 1 << 27}
"""Logits that are in float32 at a time: on a CPU, on a GPU."""
_LEAST_LOG = -30.0
_LEAST_REST = 1e-6
"""Probability that the tokens beyond the likeliest k have at the least, together: keeps its logarithm finite."""


class _LogProbs(torch.autograd.Function):  # type: ignore[misc]
    """Log-probabilities of some tokens in float32, a few rows at a time: the whole of the logits (N, V) never exists in float32.

    logits (N, V) in any precision, ids (N, m) -> (N, m) float32, natural logarithms.
    """

    @staticmethod
    def forward(ctx: Any, logits: Any, ids: Any) -> Any:
        norms = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        for rows in _chunks(logits):
            norms[rows] = torch.logsumexp(logits[rows].float(), dim=-1)
        ctx.save_for_backward(logits, ids, norms)
        return logits.gather(1, ids).float() - norms[:, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        logits, ids, norms = ctx.saved_tensors
        gradient = gradients[0].float()
        result = torch.empty_like(logits)
        for rows in _chunks(logits):
            # d log p_i / d logits = one-hot_i - softmax
            chunk = torch.sub(logits[rows], norms[rows, None]).exp_()  # float32, also from bf16
            chunk.mul_(-gradient[rows].sum(dim=1, keepdim=True))
            result[rows] = chunk.scatter_add_(1, ids[rows], gradient[rows])
        return result, None


def _chunks(logits: Any) -> list[slice]:
    """Rows that fit a processor's cache together; on a GPU, that fill it."""
    size = _CHUNK_ELEMENTS[logits.device.type == "cuda"]
    rows = max(1, size // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def part_sums(losses: Any, parts: Any) -> tuple[Any, Any]:
    """Sum of the token losses (N,) of each part, and how many tokens it has. (3,) each; `parts` (N,) as in `MicroBatch`."""
    member = (parts[None] == torch.arange(len(PARTS), device=parts.device)[:, None]).float()
    # A product rather than a selection: where nothing is selected, every weight still gets a gradient, of 0.
    return member @ losses, member.sum(dim=1)


def soft_label_losses(scores: Any, groups: Any, probabilities: Any, temperature: float) -> Any:
    """Divergence of the student's distribution over an example's labels from the teacher's, T^2 KL(p_T || q_T). (G,) nats.

        labels a and b, p = (0.8, 0.2), the student's log-likelihoods (-1, -1), T = 1
        q = (0.5, 0.5), KL = 0.8 ln(0.8 / 0.5) + 0.2 ln(0.2 / 0.5) = 0.193

    Args:
        scores: (R,) the student's log-likelihood of each label, over all its tokens.
        groups: (R,) which example the label is one of, numbered from 0.
        probabilities: (R,) the teacher's; of an example they sum to 1 or less.
        temperature: both distributions are softened by it; T^2 keeps the gradient's size.
    """
    count = int(groups.max()) + 1
    teacher = _grouped_log_softmax(probabilities.clamp_min(1e-9).log() / temperature, groups, count)
    student = _grouped_log_softmax(scores / temperature, groups, count)
    each = teacher.exp() * (teacher - student)
    return temperature**2 * torch.zeros(count, dtype=each.dtype, device=each.device).index_add(0, groups, each)


def _grouped_log_softmax(values: Any, groups: Any, count: int) -> Any:
    """Log-softmax among the values (R,) of each group."""
    highest = torch.full((count,), -math.inf, device=values.device).scatter_reduce(0, groups, values.detach(), "amax")
    shifted = values - highest[groups]
    sums = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, groups, shifted.exp())
    return shifted - sums.log()[groups]


def token_divergences(student: Any, teacher: Any, kind: str) -> Any:
    """Divergence of the student's distribution over tokens from the teacher's at each position. (N,) nats.

    The teacher's is known for its k likeliest tokens. All others are taken as one: what is left of 1 in either distribution.

        k = 1: teacher 0.8 (rest 0.2), student 0.5 (rest 0.5)
        forward-kl = 0.8 ln(0.8 / 0.5) + 0.2 ln(0.2 / 0.5) = 0.193

    Args:
        student: (N, k) its log-probabilities of the teacher's likeliest tokens.
        teacher: (N, k) the teacher's own.
        kind: forward-kl, KL(teacher || student); reverse-kl, KL(student || teacher); jsd, the mean of both against their mixture.
    """
    # Where an answer's form was enforced, forbidden tokens have minus infinity.
    p, q = _with_rest(teacher.clamp_min(_LEAST_LOG)), _with_rest(student)
    if kind == "forward-kl":
        return _kl(p, q)
    if kind == "reverse-kl":
        return _kl(q, p)
    mixture = torch.logaddexp(p, q) - math.log(2.0)
    return (_kl(p, mixture) + _kl(q, mixture)) / 2


def _with_rest(log_probabilities: Any) -> Any:
    """(N, k) -> (N, k + 1): the rest appended, and all divided by their sum, which rounding leaves beside 1."""
    known = torch.logsumexp(log_probabilities, dim=1, keepdim=True).clamp_max(math.log1p(-_LEAST_REST))
    rest = torch.log(-torch.expm1(known))
    return torch.log_softmax(torch.cat([log_probabilities, rest], dim=1), dim=1)


def _kl(p: Any, q: Any) -> Any:
    return (p.exp() * (p - q)).sum(dim=1)


class StudentLoss(nn.Module):  # type: ignore[misc]
    """A Hugging Face model with its loss, as one module whose forward pass gives a micro-batch's share of the step's loss.

    The output head projects the positions of target tokens only: of a prompt no logits are ever made.
    """

    def __init__(self, model: Any, *, temperature: float = 1.0, divergence: str = "forward-kl") -> None:
        super().__init__()
        self.model = model
        self._temperature, self._divergence = temperature, divergence
        self._rows = self._columns = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def forward(
        self, inputs: dict[str, Any], rows: Any, columns: Any, targets: Any, parts: Any, scales: Any,
        groups: Any = None, probabilities: Any = None, top_ids: Any = None, top_logprobs: Any = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        """The loss of one micro-batch.

        Args:
            inputs, rows, columns, targets, parts, groups, probabilities, top_ids, top_logprobs: see `MicroBatch`.
            scales: (5,) float32, what the sum of each of objective.TERMS is multiplied by.

        Returns:
            The scaled sum of all terms; and, without gradient, (2, 5) float64: each term's sum in nats, and what it counts.
        """
        self._rows, self._columns = rows, columns
        try:
            logits = self.model(**inputs, use_cache=False).logits
        finally:
            self._rows = self._columns = None
        if logits.dim() == 3:  # a head that is not called as a module
            logits = logits[rows, columns]
        ids = targets[:, None] if top_ids is None else torch.cat([targets[:, None], top_ids.clamp_min(0)], dim=1)
        log_probs = _LogProbs.apply(logits, ids)
        sums, counts = part_sums(-log_probs[:, 0], parts)
        none = sums.new_zeros(1)
        soft = divergence = (none, none)
        if groups is not None:
            scores = torch.zeros(len(groups), device=rows.device).index_add(0, rows, log_probs[:, 0])
            found = soft_label_losses(scores, groups, probabilities, self._temperature)
            soft = found.sum()[None], found.new_full((1,), len(found))
        if top_ids is not None:
            said = top_ids[:, 0] >= 0
            found = token_divergences(log_probs[said, 1:], top_logprobs[said], self._divergence)
            divergence = found.sum()[None], said.sum().float()[None]
        sums = torch.cat([sums, soft[0], divergence[0]])
        counts = torch.cat([counts, soft[1], divergence[1]])
        return (sums * scales).sum(), torch.stack([sums.detach(), counts]).double()

    def _select(self, head: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hidden states (R, L, H) -> (N, H), those that predict a target token."""
        hidden = arguments[0]
        return (hidden[self._rows, self._columns], *arguments[1:]) if self._rows is not None else None


def step_scales(weights: Mapping[str, float], counts: Mapping[str, float]) -> list[float]:
    """What the sum of each of objective.TERMS is multiplied by: its weight / what the whole step counts. (5,)

    A term that the step has nothing of contributes nothing.
    """
    return [weights.get(term, 0.0) / counts[term] if counts.get(term) else 0.0 for term in TERMS]
