"""The run file's `training`: steps, workers, memory, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import Section, Seed, Share


class TrainingConfig(Section):
    """How the student is trained. Sizes that follow from these keys are derived."""

    workers: Annotated[int, Field(ge=1)] = 2
    """Default: 2; but 1 on CPUs, with `placement: pack` and without min_workers, because one worker uses all cores of its node."""
    gpus_per_worker: Literal[0, 1] = 0
    placement: Literal["pack", "spread"] = "pack"
    """pack: on few nodes, since workers of one node communicate fastest. spread: on many, for the memory and cores of each. On CPUs a
    worker can use all cores of its node."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """Default: 2; 0 for one worker without offload, which has nobody to share with."""
    precision: Literal["auto", "bf16", "fp32"] = "bf16"
    """auto: bf16 if the hardware of all workers computes in it, else fp32. On CPUs bf16 is that of matrix products, and weights stay
    float32."""
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the training examples, by hash of id and seed. A smaller share is part of a larger one."""
    epochs: Annotated[float, Field(gt=0.0)] | None = 3
    """Passes over the training examples. None if `steps` is set."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps, instead of epochs. The examples are repeated until they are reached."""
    tokens_per_batch: Annotated[int, Field(ge=1)] = 16384
    """Real (unpadded) tokens of both tasks, over all workers, of a mean optimizer step."""
    tokens_per_micro_batch: Annotated[int, Field(ge=1)] = 8192
    """Tokens of one worker's micro-batch with padding. Accumulation steps follow from it. Packed ones may exceed it by a tenth."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-4
    """Of AdamW, after warm-up."""
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How it falls after warm-up: to 0 linearly, along half a cosine, or not at all."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    gradient_clipping: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest norm of all gradients together."""
    max_input_tokens: Annotated[int, Field(ge=1)] = 1024
    """A longer sequence is dropped, never cut."""
    max_target_tokens: Annotated[int, Field(ge=1)] = 256
    """A longer rationale is dropped; a row whose label is longer is left out."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """Kept in CPU memory: the optimizer state (ZeRO 1 to 3), or parameters too (ZeRO 3)."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    compile: bool = False
    """torch.compile on every layer: faster, above all on GPUs, after about a minute of compilation. Not with zero_stage 3."""
    trackers: list[Literal["mlflow", "wandb"]] = []
    """Services that receive every step, besides the TensorBoard files in OUTPUT/tensorboard. Each is an extra: `raystill[mlflow]`."""
    validate_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Measure the validation split every N steps, and export the best weights by choose_by. None: only before and after."""
    choose_by: Literal["label-loss", "accuracy"] = "label-loss"
    """The same for all methods. label-loss: of the label's tokens. accuracy: share of labels that greedy decoding writes exactly.
    A method that writes rationale and label as one text has no label-loss of its own and is chosen by the loss of that text."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many measurements without improvement. Needs validate_every_steps."""
    max_loss_spike: Annotated[float, Field(gt=1.0)] | None = None
    """Stop if a step's loss exceeds this multiple of the median of the 50 steps before it."""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 500
    """A kill loses at most the steps since the last one."""
    checkpoint_every_minutes: Annotated[float, Field(gt=0.0)] | None = 5.0
    """Also after this many minutes without one; after more if saving one takes over a twentieth of them. null: by steps alone."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Keep this many. If the last one is damaged, training resumes from the previous one."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """Start, or resume after a loss, with fewer workers if the cluster has no more, but at least this many."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Worker deaths after which the run resumes from its last checkpoint."""
    seed: Seed = 0
    """Decides initial weights, the order of examples and the share of `fraction`."""

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_epochs(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("steps") is not None and "epochs" not in data:
            return {**data, "epochs": None}
        return data

    @model_validator(mode="before")
    @classmethod
    def _one_worker_on_a_cpu(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        spread = data.get("gpus_per_worker") or data.get("min_workers") or data.get("placement") == "spread"
        workers = data.get("workers", cls.model_fields["workers"].default if spread else 1)
        alone = workers == 1 and data.get("offload", "none") == "none"
        return {"zero_stage": 0 if alone else cls.model_fields["zero_stage"].default, **data, "workers": workers}

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            rule = f"epochs {self.epochs:g} and steps {self.steps} are both set"
            raise ValueError(f"{rule}; remove one of them, or set it to null")
        if self.epochs is None and self.steps is None:
            raise ValueError("neither epochs nor steps is set; set one of them")
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.patience is not None and self.validate_every_steps is None:
            raise ValueError("`patience` needs `validate_every_steps`; set it, or remove patience")
        if self.choose_by != "label-loss" and self.validate_every_steps is None:
            raise ValueError("`choose_by` needs `validate_every_steps`; set it, or remove choose_by")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage 1, 2 or 3, it is 0")
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(f"offload: parameters needs zero_stage 3, it is {self.zero_stage}")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers {self.trackers} has a duplicate; remove it")
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile cannot be used with zero_stage 3, which fetches weights inside a layer; set one of them"
            )
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is above workers {self.workers}")
        return self
