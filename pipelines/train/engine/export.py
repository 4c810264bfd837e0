"""The trained engine -> a Hugging Face folder that opens without this project.

Out, in OUTPUT/student: config.json, model.safetensors, tokenizer files, generation_config.json, deepspeed.json (the resolved settings) and
training.jsonl (the losses by step). The stage adds README.md and, last, the manifest.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.storage.store import PROGRESS, Store
from pipelines.students.details import Losses
from pipelines.train.engine.lora import merge_adapters

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def export_student(
    engine: DeepSpeedEngine, tokenizer: PreTrainedTokenizerBase, store: Store, deepspeed: Mapping[str, object],
    history: Sequence[Losses], weights: Store | None = None,
) -> None:  # fmt: skip
    """Write the student from worker 0, and remove what the folder held. Every worker must call it: weights are gathered from all.

    Args:
        deepspeed: the resolved settings.
        weights: a folder of `write_weights` to export instead of the engine's weights.
    """
    import torch
    from pyarrow.fs import copy_files

    state = full_state(engine) if weights is None else None
    if torch.distributed.get_rank() == 0:
        with tempfile.TemporaryDirectory() as folder:
            if weights is not None:
                copy_files(weights.root, folder, source_filesystem=weights.fs)
            elif state is not None:
                _save_model(engine, state, folder)
            tokenizer.save_pretrained(folder)
            Path(folder, "deepspeed.json").write_text(json.dumps(deepspeed, indent=2) + "\n", encoding="utf-8")
            lines = "".join(json.dumps(row) + "\n" for row in history)
            Path(folder, "training.jsonl").write_text(lines, encoding="utf-8")
            store.clear(keep=PROGRESS)  # the driver writes it meanwhile
            store.put_folder(folder)
    torch.distributed.barrier()


def write_weights(engine: DeepSpeedEngine, store: Store) -> None:
    """Write the current model without a tokenizer, from worker 0. Every worker must call it."""
    import torch

    state = full_state(engine)
    if state is not None:
        with tempfile.TemporaryDirectory() as folder:
            _save_model(engine, state, folder)
            store.clear()
            store.put_folder(folder)
    torch.distributed.barrier()


def _save_model(engine: DeepSpeedEngine, state: Mapping[str, Tensor], folder: str) -> None:
    model = engine.module.model
    model.save_pretrained(folder, state_dict=merge_adapters(model, state))


def full_state(engine: DeepSpeedEngine) -> dict[str, Tensor] | None:
    """The whole model's weights and buffers on worker 0's CPU, in the precision of the training. None on other workers.

    Tensors that share memory in the model (tied embeddings) share it in the result.
    """
    import deepspeed
    import torch

    model = engine.module.model
    keep = torch.distributed.get_rank() == 0
    sharded = engine.zero_optimization_stage() == 3
    gathered: dict[int, Tensor] = {}
    for parameter in model.parameters():
        # One at a time: a worker that holds its part of a large model may not have room for all of it.
        with deepspeed.zero.GatheredParameters([parameter], enabled=sharded):
            if keep:
                gathered[id(parameter)] = parameter.detach().to("cpu", copy=True)
    if not keep:
        return None
    tensors = model.state_dict(keep_vars=True)
    return {name: gathered.get(id(tensor), tensor.detach().cpu()) for name, tensor in tensors.items()}
