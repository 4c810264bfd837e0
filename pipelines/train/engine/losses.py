"""The terms of the losses, and the student's model with its loss as one module. Pure functions of torch.

A term is a sum over a micro-batch. The step's loss is the sum over all micro-batches of all workers, each term divided by its count in a
mean step of the epoch and weighted. So the loss does not depend on the number of workers or micro-batches, and a token weighs the same in
every step:

    step-by-step: labels [2 tokens: nll 1.0, 3.0], rationales [4 tokens: nll 0.5 each], w = 0.5, and a mean step has as many
    loss = 0.5 x (1.0 + 3.0) / 2 + 0.5 x (4 x 0.5) / 4 = 1.25

Sources: step-by-step, Hsieh et al. 2023, "Distilling Step-by-Step!", equation 4, with each task's loss a mean over its own tokens. Soft
labels, Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2. Divergences of tokens, Agarwal et al. 2024,
"On-Policy Distillation of Language Models", section 2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.train.data.collate import Segments
from pipelines.train.loss_terms import PARTS

_CHUNK_ELEMENTS = {False: 1 << 18, True: 1 << 27}
"""Logits that are converted to float32 at a time, by `is on a GPU`."""
_MIN_LOGPROB = -30.0
_MIN_REST = 1e-6
"""Least probability of all tokens beyond the likeliest k together: keeps its logarithm finite."""


class _LogProbs(torch.autograd.Function):  # type: ignore[misc]
    """Log-probabilities of some tokens in float32, a few rows at a time. The logits (N, V) never exist in float32 as a whole.

    logits (N, V) in any precision, ids (N, m) -> (N, m) float32, natural logarithms.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        norms = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        for rows in _chunks(logits):
            norms[rows] = torch.logsumexp(logits[rows].float(), dim=-1)
        ctx.save_for_backward(logits, ids, norms)
        return logits.gather(1, ids).float() - norms[:, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, ids, norms = ctx.saved_tensors
        gradient = gradients[0].float()
        result = torch.empty_like(logits)
        for rows in _chunks(logits):
            # d log p_i / d logits = one-hot_i - softmax
            chunk = torch.sub(logits[rows], norms[rows, None]).exp_()  # float32, also from bf16
            chunk.mul_(-gradient[rows].sum(dim=1, keepdim=True))
            result[rows] = chunk.scatter_add_(1, ids[rows], gradient[rows])
        return result, None


def _chunks(logits: Tensor) -> list[slice]:
    """Slices of rows: of a size that fits the CPU's cache, or occupies a GPU."""
    size = _CHUNK_ELEMENTS[logits.device.type == "cuda"]
    rows = max(1, size // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def part_sums(losses: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """(3,) sums of the token losses (N,) by part, and (3,) their numbers of tokens. `parts` (N,) as in `MicroBatch`."""
    member = (parts[None] == torch.arange(len(PARTS), device=parts.device)[:, None]).float()
    # A product rather than a selection: without any token of a part, every weight still gets a gradient, of 0.
    return member @ losses, member.sum(dim=1)


def soft_label_losses(scores: Tensor, groups: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's distribution over an example's labels from the teacher's, T^2 KL(p_T || q_T). (G,) nats.

        labels a and b, p = (0.8, 0.2), the student's log-likelihoods (-1, -1), T = 1
        q = (0.5, 0.5), KL = 0.8 ln(0.8 / 0.5) + 0.2 ln(0.2 / 0.5) = 0.193

    Args:
        scores: (R,) the student's log-likelihood of each label, over all its tokens.
        groups: (R,) the number of each label's example, from 0.
        probabilities: (R,) the teacher's; those of an example sum to 1 or less.
        temperature: softens both distributions; T^2 keeps the size of the gradient.
    """
    count = int(groups.max()) + 1
    teacher = _grouped_log_softmax(probabilities.clamp_min(1e-9).log() / temperature, groups, count)
    student = _grouped_log_softmax(scores / temperature, groups, count)
    each = teacher.exp() * (teacher - student)
    return temperature**2 * torch.zeros(count, dtype=each.dtype, device=each.device).index_add(0, groups, each)


def right_labels(logits: Tensor, rows: Tensor, targets: Tensor, parts: Tensor) -> Tensor:
    """(2,) float64: label sequences whose every token is the likeliest one, and all label sequences. Arguments as in `MicroBatch`.

    Greedy decoding writes exactly these: up to its first mistake it reads the target.
    """
    in_label = parts == PARTS.index("label")
    wrong = in_label & (logits.argmax(dim=-1) != targets)
    empty = torch.zeros(int(rows.max()) + 1, dtype=torch.float64, device=rows.device)
    tokens, mistakes = (empty.index_add(0, rows, which.double()) for which in (in_label, wrong))
    return torch.stack([((tokens > 0) & (mistakes == 0)).sum(), (tokens > 0).sum()]).double()


def _grouped_log_softmax(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Log-softmax of values (R,) within each group."""
    highest = torch.full((count,), -math.inf, device=values.device).scatter_reduce(0, groups, values.detach(), "amax")
    shifted = values - highest[groups]
    sums = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, groups, shifted.exp())
    return shifted - sums.log()[groups]


def token_divergences(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """Divergence of the student's distribution over tokens from the teacher's at each position. (N,) nats.

    The teacher's is known for its k likeliest tokens. All other tokens count as one, with the rest of the probability.

        k = 1: teacher 0.8 (rest 0.2), student 0.5 (rest 0.5)
        forward-kl = 0.8 ln(0.8 / 0.5) + 0.2 ln(0.2 / 0.5) = 0.193

    Args:
        student: (N, k) the student's log-probabilities of the teacher's likeliest tokens.
        teacher: (N, k) the teacher's.
        kind: forward-kl, KL(teacher || student); reverse-kl, KL(student || teacher); jsd, the mean of both against their mixture.
    """
    # Guided decoding gives forbidden tokens minus infinity.
    p, q = _with_rest(teacher.clamp_min(_MIN_LOGPROB)), _with_rest(student)
    if kind == "forward-kl":
        return _kl(p, q)
    if kind == "reverse-kl":
        return _kl(q, p)
    mixture = torch.logaddexp(p, q) - math.log(2.0)
    return (_kl(p, mixture) + _kl(q, mixture)) / 2


def _with_rest(log_probabilities: Tensor) -> Tensor:
    """(N, k) -> (N, k + 1): the rest appended, and all normalised, because rounding leaves their sum off 1."""
    known = torch.logsumexp(log_probabilities, dim=1, keepdim=True).clamp_max(math.log1p(-_MIN_REST))
    rest = torch.log(-torch.expm1(known))
    return torch.log_softmax(torch.cat([log_probabilities, rest], dim=1), dim=1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(dim=1)


class StudentLoss(nn.Module):  # type: ignore[misc]
    """A Hugging Face model with its loss. The forward pass returns a micro-batch's share of the step's loss.

    The output head projects only positions that predict target tokens. Prompts never get logits.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 1.0,
        divergence: str = "forward-kl",
        accuracy: bool = False,
        cast: bool = False,
    ) -> None:
        """`cast`: compute matrix products in bf16, and all else in the precision of the weights."""
        super().__init__()
        self.model = model
        self._temperature, self._divergence, self._accuracy, self._cast = temperature, divergence, accuracy, cast
        self._positions: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def forward(
        self, inputs: dict[str, Tensor], rows: Tensor, positions: Tensor, targets: Tensor, parts: Tensor, scales: Tensor,
        groups: Tensor | None = None, probabilities: Tensor | None = None, top_ids: Tensor | None = None,
        top_logprobs: Tensor | None = None, segments: Segments | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The loss of one micro-batch.

        Args:
            inputs, rows, positions, targets, parts, groups, probabilities, top_ids, top_logprobs, segments: see `MicroBatch`.
            scales: (5,) float32, the factor of each of loss_terms.TERMS.

        Returns:
            The scaled sum of all terms; and (2, 5) float64 without gradient: the sum of each term in nats, and its count. With
            `accuracy`, outside of training, a sixth column: label sequences that greedy decoding writes exactly, and all of them.
        """
        self._positions = positions
        packing = {} if segments is None else {"segments": segments}
        try:
            with torch.autocast(rows.device.type, torch.bfloat16, enabled=self._cast):
                logits = self.model(**inputs, **packing, use_cache=False).logits
        finally:
            self._positions = None
        if logits.dim() == 3:  # the head is not called as a module
            logits = logits.flatten(0, 1).index_select(0, positions)
        ids = targets[:, None] if top_ids is None else torch.cat([targets[:, None], top_ids.clamp_min(0)], dim=1)
        log_probs = _LogProbs.apply(logits, ids)
        sums, counts = part_sums(-log_probs[:, 0], parts)
        zero = sums.new_zeros(1)
        soft = divergence = (zero, zero)
        if groups is not None:
            scores = torch.zeros(len(groups), device=rows.device).index_add(0, rows, log_probs[:, 0])
            losses = soft_label_losses(scores, groups, probabilities, self._temperature)
            soft = losses.sum()[None], losses.new_full((1,), len(losses))
        if top_ids is not None and top_logprobs is not None:
            known = top_ids[:, 0] >= 0
            losses = token_divergences(log_probs[known, 1:], top_logprobs[known], self._divergence)
            divergence = losses.sum()[None], known.sum().float()[None]
        sums = torch.cat([sums, soft[0], divergence[0]])
        counts = torch.cat([counts, soft[1], divergence[1]])
        measured = torch.stack([sums.detach(), counts]).double()
        if self._accuracy and not self.training:
            measured = torch.cat([measured, right_labels(logits, rows, targets, parts)[:, None]], dim=1)
        return (sums * scales).sum(), measured

    def _select(self, head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Hidden states (R, L, H) -> those that predict a target token (N, H)."""
        hidden = arguments[0]
        if self._positions is None:
            return None
        return (hidden.flatten(0, 1).index_select(0, self._positions), *arguments[1:])
