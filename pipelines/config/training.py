"""The run file's `training`: steps, workers, memory, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import Section, Share


class TrainingConfig(Section):
    """How the student is trained. Sizes that follow from these are derived, never configured."""

    workers: Annotated[int, Field(ge=1)] = 2
    gpus_per_worker: Literal[0, 1] = 0
    placement: Literal["pack", "spread"] = "pack"
    """pack: on as few nodes as have room, since workers of one node talk fastest. spread: on as many as there are, for the memory and cores
    of each; on CPUs, where a worker can use all cores of its node."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Literal["bf16", "fp32"] = "bf16"
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the training examples that is used, by hash of id and seed: a smaller share is part of a larger one."""
    epochs: Annotated[float, Field(gt=0.0)] = 3
    tokens_per_batch: Annotated[int, Field(ge=1)] = 16384
    """Real (unpadded) tokens of both tasks, over all workers, per optimizer step."""
    tokens_per_micro_batch: Annotated[int, Field(ge=1)] = 8192
    """Padded tokens that one worker holds at a time; accumulation steps follow from it."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-4
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How it goes on then: to 0 in a straight line, along half a wave, or not at all."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    gradient_clipping: Annotated[float, Field(gt=0.0)] = 1.0
    max_input_tokens: Annotated[int, Field(ge=1)] = 1024
    max_target_tokens: Annotated[int, Field(ge=1)] = 256
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What is kept in the memory of the CPU: optimizer state (ZeRO 1 to 3), parameters too (ZeRO 3)."""
    activation_checkpointing: bool = False
    """Compute activations a second time in the backward pass rather than keep them."""
    compile: bool = False
    """torch.compile on every layer: faster after a start of a minute or so, on GPUs above all. Not with zero_stage 3."""
    trackers: list[Literal["mlflow", "wandb"]] = []
    """Who is told of every step, besides the TensorBoard files in OUTPUT/tensorboard. Each is an extra: `raystill[mlflow]`."""
    validate_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Measure the validation split in between, and export the weights whose loss on it is lowest. None: before and after only."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many measurements without a better one; goes with validate_every_steps."""
    max_loss_spike: Annotated[float, Field(gt=1.0)] | None = None
    """Stop where a step's loss is above so many times the median of the 50 before it."""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 500
    checkpoint_every_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Also after so many minutes without one."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """The last so many are kept: where one is damaged, the one before is gone on from."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """Begin, and go on after a loss, with fewer workers than `workers`, but so many at the least, where the cluster has no more."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Worker deaths that the run survives by going on from its last checkpoint."""
    seed: int = 0

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.patience is not None and self.validate_every_steps is None:
            raise ValueError("`patience` counts measurements; set `validate_every_steps` too, or remove it")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage 1, 2 or 3, it is 0")
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(f"offload: parameters needs zero_stage 3, it is {self.zero_stage}")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers {self.trackers} names one twice; remove it")
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile does not go with zero_stage 3, which fetches weights in the middle of a layer")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is above workers {self.workers}")
        return self
