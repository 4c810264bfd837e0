"""DeepSpeed from the run: its JSON, an engine, the learning rate, and what its optimizer holds on each worker.

In: the training section of the run. Out: a DeepSpeed engine around `StudentLoss`, for CPU (gloo) and GPU (nccl) workers:

    {"workers": 2, "zero_stage": 2, "precision": "bf16"} -> {"zero_optimization": {"stage": 2, ...}, "bf16": {"enabled": true}, ...}

There is no fp16: T5 overflows in it. The learning rate is a function of the step, so that a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
import os
from typing import Any

from pipelines.config import TrainingConfig
from pipelines.errors import StageFailedError

_COMPILED_VARIANTS = 32


def deepspeed_config(training: TrainingConfig) -> dict[str, Any]:
    """The resolved DeepSpeed JSON.

    A step's micro-batches vary in number, so accumulation is driven by hand: DeepSpeed is told 1 micro-batch, and `loop` says
    which backward pass ends a step.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.gradient_clipping,
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
        # Offloaded, DeepSpeed would take an Adam of its own, which needs a compiler on every worker.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": training.precision == "bf16"},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _offload(training: TrainingConfig) -> dict[str, Any]:
    """What ZeRO keeps in the memory of the CPU."""
    cpu = {"device": "cpu", "pin_memory": training.gpus_per_worker > 0}
    if training.offload == "none":
        return {}
    return {"offload_optimizer": cpu} | ({"offload_param": cpu} if training.offload == "parameters" else {})


def prepare_deepspeed(gpu: bool) -> None:
    """Join DeepSpeed to the process group that Ray Train has made. On the CPU without compiling anything.

    DeepSpeed would build a shared-memory collective from C++ there; gloo does the same job without a compiler.
    """
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.logger.setLevel("WARNING")
    if not gpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", dist_init_required=False, verbose=False)


def make_engine(module: Any, training: TrainingConfig) -> Any:
    """A DeepSpeed engine around a module. Norms and biases get no weight decay.

    `prepare_deepspeed` has been called. The module's weights must be the same on every worker.
    """
    import deepspeed

    parameters = [p for p in module.parameters() if p.requires_grad]
    # The rate is set before every step. Until then it is 0: some of DeepSpeed's optimizers take a step while they are made.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "lr": 0.0, "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "lr": 0.0, "weight_decay": 0.0},
    ]
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=[group for group in groups if group["params"]],
        config=deepspeed_config(training),
        dist_init_required=False,
    )
    if training.zero_stage == 0:
        engine.basic_optimizer.state.clear()  # that step must not count in Adam's bias correction
    return engine


def compile_layers(model: Any) -> None:
    """torch.compile on every layer of a transformers model, in place.

    Layer by layer: layers of one shape share what is compiled, and what goes on around them (the choice of target positions) stays
    as it is. For sizes that vary: every micro-batch has others.
    """
    import torch

    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise StageFailedError(
            f"training.compile: the layers of a {type(model).__name__} are not known; set it to false"
        )
    # T5's are compiled in several variants: of encoder and decoder, the first and the others, in training and in validation.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _COMPILED_VARIANTS)
    for layer in layers:
        layer.compile(dynamic=True)


def learning_rate(step: int, steps: int, peak: float, warmup: float, schedule: str = "linear") -> float:
    """The rate of a step (from 0): up to `peak` in a straight line over the share `warmup` of the steps, then as the schedule says.

    linear: down towards 0 in a straight line. cosine: down towards 0 along half a wave. constant: it stays.

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


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in engine.basic_optimizer.param_groups:
        group["lr"] = rate


def optimizer_bytes(engine: Any) -> int:
    """Bytes of optimizer state on this worker: Adam's moments, and master weights where they are not the model's own.

    Measured on the tensors that are there, after at least one step.
    """
    own = {id(parameter) for parameter in engine.module.parameters()}
    total = 0
    for master, state in engine.basic_optimizer.state.items():
        held = [value for value in state.values() if hasattr(value, "element_size")]
        held += [] if id(master) in own else [master]
        total += sum(int(tensor.numel()) * int(tensor.element_size()) for tensor in held)
    return total
