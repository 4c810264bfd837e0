"""DeepSpeed: its settings, the engine around a student's loss, and the learning rate.

In: the training section of the run. Out: an engine for CPU (gloo) or GPU (NCCL) workers:

    {"workers": 2, "zero_stage": 2, "precision": "bf16"} -> {"zero_optimization": {"stage": 2, ...}, "bf16": {"enabled": true}, ...}

There is no fp16, because T5 overflows in it. The learning rate is a function of the step, so that resuming needs no scheduler state.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from pipelines.config import TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.runtime.compat.deepspeed import disable_compiled_collective, skip_reduction
from pipelines.runtime.compat.transformers import layer_classes

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch.nn import Module
    from transformers import PreTrainedModel

_COMPILED_VARIANTS = 32


def deepspeed_config(training: TrainingConfig) -> dict[str, Any]:
    """The resolved DeepSpeed JSON.

    Steps differ in their number of micro-batches. So DeepSpeed counts each micro-batch as a step of accumulation 1, and the worker marks
    the last one (`set_gradient_accumulation_boundary`).
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Without ZeRO and its own weights DeepSpeed clips and does not report the norm: the worker does both (`clip_gradients`).
        "gradient_clipping": 0.0 if clips_itself(training) else training.gradient_clipping,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": training.learning_rate,
                "betas": [0.9, 0.999],
                "eps": 1e-8,
                "weight_decay": training.weight_decay,
                "fused": True,  # on the CPU six times as fast as a loop over tensors
                "torch_adam": True,  # DeepSpeed's own needs a C++ or CUDA compiler on every worker
            },
        },
        "zero_optimization": {
            "stage": training.zero_stage,
            "overlap_comm": training.gpus_per_worker > 0,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
            **_offload(training),
        },
        # With offload, DeepSpeed insists on its own Adam otherwise, which needs a compiler on every worker.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": training.precision == "bf16" and not casts_products(training)},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if accumulates_in_float32(training) else {}),
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def casts_products(training: TrainingConfig) -> bool:
    """True if weights, gradients and sums stay float32, and matrix products alone compute in bf16 (torch.autocast).

    So on CPUs, whose vector units compute float32 faster than bf16, and which then need no second copy of the weights.
    """
    return training.precision == "bf16" and not training.gpus_per_worker


def clips_itself(training: TrainingConfig) -> bool:
    """True if DeepSpeed's optimizer is torch's own on the model's own float32 weights."""
    return training.zero_stage == 0 and (training.precision == "fp32" or casts_products(training))


def accumulates_in_float32(training: TrainingConfig) -> bool:
    """True if gradients of bf16 are accumulated in float32. In bf16 their sum over 128 micro-batches is off by 1.5% rather than 0.6%.

    DeepSpeed does it with ZeRO 2 and 3 alone: without ZeRO it refuses, and for ZeRO 1 it takes an optimizer without whole moments.
    """
    return training.precision == "bf16" and training.zero_stage >= 2 and not casts_products(training)


def _offload(training: TrainingConfig) -> dict[str, dict[str, str | bool]]:
    """The part of the ZeRO settings that moves state to the CPU's memory."""
    cpu: dict[str, str | bool] = {"device": "cpu", "pin_memory": training.gpus_per_worker > 0}
    if training.offload == "none":
        return {}
    return {"offload_optimizer": cpu} | ({"offload_param": cpu} if training.offload == "parameters" else {})


def prepare_deepspeed(gpu: bool) -> None:
    """Attach DeepSpeed to the process group that exists. Compiles nothing on the CPU."""
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.logger.setLevel("WARNING")
    if not gpu:
        disable_compiled_collective()
    deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", dist_init_required=False, verbose=False)


def parameter_groups(module: Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters as an optimizer's groups: matrices with weight decay, norms and biases without."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        # The worker sets the rate before every step. It starts at 0 because some DeepSpeed optimizers step when they are created.
        {"params": [p for p in trained if p.dim() > 1], "lr": 0.0, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "lr": 0.0, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_engine(module: Module, training: TrainingConfig) -> DeepSpeedEngine:
    """A DeepSpeed engine around a module whose weights are the same on every worker. Call `prepare_deepspeed` first."""
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=parameter_groups(module, training.weight_decay),
        config=deepspeed_config(training),
        dist_init_required=False,
    )
    if training.zero_stage == 0:
        engine.optimizer.state.clear()  # a step at creation must not count in Adam's bias correction
        if engine.world_size == 1:
            skip_reduction(engine)
    return engine


def clip_gradients(engine: DeepSpeedEngine, largest: float) -> float:
    """Scale the gradients of a step down to the norm `largest` if theirs is larger. Returns their norm."""
    import torch

    parameters = [p for p in engine.module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    if norm > largest:  # otherwise torch would multiply all gradients by 1
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def compile_layers(model: PreTrainedModel) -> None:
    """Apply torch.compile to every layer of a transformers model, in place and for varying sizes.

    Layers of equal shape share their compiled code. The selection of target positions around them stays uncompiled.

    Raises:
        StageFailedError: transformers does not name the layers of this architecture.
    """
    import torch

    classes = layer_classes(model)
    layers = [module for module in model.modules() if type(module).__name__ in classes]
    if not layers:
        rule = f"transformers does not name the layers of a {type(model).__name__}"
        raise StageFailedError(f"training.compile true: {rule}. Set it to false")
    # One T5 layer class has many variants: encoder or decoder, first or later, training or validation.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _COMPILED_VARIANTS)
    for layer in layers:
        layer.compile(dynamic=True)


def learning_rate(step: int, steps: int, peak: float, warmup: float, schedule: str = "linear") -> float:
    """The rate of a step, counted from 0. It rises linearly to `peak` over the share `warmup` of the steps.

    Then linear falls towards 0 in a straight line, cosine along half a wave, and constant stays.

    >>> [learning_rate(step, 4, 1.0, 0.5) for step in range(4)]
    [0.5, 1.0, 0.6666666666666666, 0.3333333333333333]
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    left = (steps - step) / (steps - rising + 1) if rising else (steps - step) / steps
    return peak * (left if schedule == "linear" else (1.0 - math.cos(math.pi * left)) / 2.0)


def set_learning_rate(engine: DeepSpeedEngine, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def optimizer_bytes(engine: DeepSpeedEngine) -> int:
    """Bytes of optimizer state on this worker after at least one step: Adam's moments, and master weights that are copies."""
    own = {id(parameter) for parameter in engine.module.parameters()}
    total = 0
    for master, state in engine.optimizer.state.items():
        tensors = [value for value in state.values() if hasattr(value, "element_size")]
        tensors += [] if id(master) in own else [master]
        total += sum(int(tensor.numel()) * int(tensor.element_size()) for tensor in tensors)
    return total
