"""The step-by-step loss: (1 - w) x mean over the label tokens + w x mean over the rationale tokens, of all workers of a step.

In: micro-batches of label and rationale sequences mixed, and how many target tokens of each part the whole step has. Out: for
each micro-batch the share of the step's loss that it contributes, so that the shares of all micro-batches of all workers sum to
the step's loss. One forward and one backward pass serve both parts.

    step: labels [2 tokens: nll 1.0, 3.0], rationales [4 tokens: nll 0.5 each], w = 0.5
    loss = 0.5 x (1.0 + 3.0) / 2 + 0.5 x (4 x 0.5) / 4 = 1.25

Hsieh et al. 2023, "Distilling Step-by-Step!", equation 4, with each task's loss a mean over its own tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipelines.train.batches import MicroBatch

_CHUNK_ELEMENTS = {False: 1 << 18, True: 1 << 27}
"""Logits that are in float32 at a time: on a CPU, on a GPU."""


def token_weights(rationale_weight: float, label_tokens: int, rationale_tokens: int) -> tuple[float, float]:
    """What one label token and one rationale token of a step weigh. A part without tokens contributes nothing."""
    label = (1.0 - rationale_weight) / label_tokens if label_tokens else 0.0
    return label, rationale_weight / rationale_tokens if rationale_tokens else 0.0


class _TokenLosses(torch.autograd.Function):  # type: ignore[misc]
    """Cross entropy of each token in float32, a few rows at a time: the whole of the logits (N, V) never exists in float32.

    logits (N, V) in any precision, targets (N,) -> losses (N,) float32, in nats.
    """

    @staticmethod
    def forward(ctx: Any, logits: Any, targets: Any) -> Any:
        norms = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        for rows in _chunks(logits):
            norms[rows] = torch.logsumexp(logits[rows].float(), dim=-1)
        ctx.save_for_backward(logits, targets, norms)
        return norms - logits.gather(1, targets[:, None])[:, 0].float()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        logits, targets, norms = ctx.saved_tensors
        result = torch.empty_like(logits)
        for rows in _chunks(logits):
            # d loss / d logits = softmax - one-hot
            chunk = torch.sub(logits[rows], norms[rows, None]).exp_()  # float32, also from bf16
            chunk.scatter_add_(1, targets[rows, None], torch.full_like(norms[rows, None], -1.0))
            result[rows] = chunk.mul_(gradients[0][rows, None])
        return result, None


def _chunks(logits: Any) -> list[slice]:
    """Rows that fit a processor's cache together; on a GPU, that fill it."""
    size = _CHUNK_ELEMENTS[logits.device.type == "cuda"]
    rows = max(1, size // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


class StudentLoss(nn.Module):  # type: ignore[misc]
    """A Hugging Face model with its loss, as one module whose forward pass gives a weighted sum of token losses.

    The output head projects the positions of target tokens only: of a prompt no logits are ever made.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._rows = self._columns = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def forward(self, inputs: dict[str, Any], rows: Any, columns: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        """The loss of one micro-batch.

        Args:
            inputs: what the model reads, see `MicroBatch`.
            rows: (N,) the row of each target token.
            columns: (N,) the position whose output predicts it.
            targets: (N,) its id.
            weights: (N,) float32, what its loss is multiplied by.

        Returns:
            The weighted sum, and the unweighted losses (N,) in nats without gradient; float32.
        """
        self._rows, self._columns = rows, columns
        try:
            logits = self.model(**inputs, use_cache=False).logits
        finally:
            self._rows = self._columns = None
        if logits.dim() == 3:  # a head that is not called as a module
            logits = logits[rows, columns]
        losses = _TokenLosses.apply(logits, targets)
        return (losses * weights).sum(), losses.detach()

    def _select(self, head: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hidden states (R, L, H) -> (N, H), those that predict a target token."""
        hidden = arguments[0]
        return (hidden[self._rows, self._columns], *arguments[1:]) if self._rows is not None else None


def to_tensors(batch: MicroBatch, weights: tuple[float, float], device: Any) -> dict[str, Any]:
    """The arguments of `StudentLoss.forward` for a micro-batch. `weights`: of a label token, of a rationale token."""
    parts = torch.from_numpy(batch.parts)
    # Part -1 is the token of an empty micro-batch: the table's last entry.
    table = torch.tensor([*weights, 0.0], dtype=torch.float32)
    tensors = {name: torch.from_numpy(getattr(batch, name)).to(device) for name in ("rows", "columns", "targets")}
    inputs = {name: torch.from_numpy(array).to(device) for name, array in batch.inputs.items()}
    return {"inputs": inputs, **tensors, "weights": table[parts].to(device)}


def sums_by_part(losses: Any, batch: MicroBatch) -> Any:
    """Sum of the token losses of labels and of rationales, and how many there are of each. Shape (4,), float64."""
    parts = torch.from_numpy(batch.parts).to(losses.device)
    values = [losses[parts == part].double().sum() for part in (0, 1)]
    return torch.stack([*values, (parts == 0).sum().double(), (parts == 1).sum().double()])
