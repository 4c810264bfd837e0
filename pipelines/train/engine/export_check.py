"""Compares a written student with the trained one: the logits of a few examples, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.config import LoraConfig
from pipelines.errors import StageFailedError
from pipelines.train.data.collate import MicroBatch
from pipelines.train.engine.lora import add_adapters

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MAX_DIFFERENCE = 1e-3
"""Of a logit. Rounding in float32 is below a hundredth of this."""


def logits_difference(
    model: PreTrainedModel, folder: str, state: Mapping[str, Tensor], lora: LoraConfig | None, probe: MicroBatch
) -> float:
    """The largest difference of a logit at the target positions of `probe`.

    Args:
        model: only its class is used.
        folder: the written student, opened as users open it.
        state: the trained weights, with adapters beside the weights that they adapt.
        probe: on the CPU.
    """
    import torch

    student = type(model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    written = _logits(student, probe)
    if lora is not None:
        add_adapters(student, lora, seed=0)
    student.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return float((_logits(student.eval(), probe) - written).abs().max())


def check_difference(difference: float) -> None:
    """Raise StageFailedError if the written student is not the trained one."""
    if not difference <= MAX_DIFFERENCE:  # also if it is not a number
        rule = (
            f"its logits differ by up to {difference:.2g} from those of the trained one, {MAX_DIFFERENCE:g} is allowed"
        )
        raise StageFailedError(f"the exported student: {rule}. Nothing was exported. Train without student.lora")


def _logits(model: Any, probe: MicroBatch) -> Tensor:
    import torch

    with torch.no_grad():
        logits = model(**probe.inputs, use_cache=False).logits
    return logits.flatten(0, 1)[probe.positions]
