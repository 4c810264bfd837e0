"""The trained engine -> a Hugging Face folder that opens without this project.

Out, in OUTPUT/student: config.json, model.safetensors, tokenizer files, generation_config.json, deepspeed.json (the resolved settings) and
training.jsonl (the losses by step). The stage adds README.md and, last, the manifest.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.storage.lock import LOCK
from pipelines.storage.store import PROGRESS, Store
from pipelines.students.details import Losses
from pipelines.train.engine.deepspeed_engine import deepspeed_config
from pipelines.train.engine.export_check import check_difference, logits_difference
from pipelines.train.engine.lora import merge_adapters
from pipelines.train.engine.worker import Worker

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def export_student(
    worker: Worker, tokenizer: PreTrainedTokenizerBase, store: Store, history: Sequence[Losses], weights: Store | None = None
) -> float | None:  # fmt: skip
    """Write the student from worker 0, and remove what the folder held. Every worker must call it: weights are gathered from all.

    Args:
        weights: a folder of `write_weights` to export instead of the worker's weights.

    Returns:
        On every worker, how much a logit differs from the trained student's; None for `weights`, which were compared when written.

    Raises:
        StageFailedError: the logits differ by more than `export_check.MAX_DIFFERENCE`. Raised on every worker.
    """
    from pyarrow.fs import copy_files

    with tempfile.TemporaryDirectory() as folder:
        difference = _save_model(worker, folder) if weights is None else None
        if worker.rank == 0:
            if weights is not None:
                copy_files(weights.root, folder, source_filesystem=weights.fs)
            tokenizer.save_pretrained(folder)
            settings = json.dumps(deepspeed_config(worker.run.training), indent=2)
            Path(folder, "deepspeed.json").write_text(settings + "\n", encoding="utf-8")
            lines = "".join(json.dumps(row) + "\n" for row in history)
            Path(folder, "training.jsonl").write_text(lines, encoding="utf-8")
            store.clear(PROGRESS, LOCK)  # the driver holds them meanwhile
            store.put_folder(folder)
    worker.wait_for_all()
    return difference


def write_weights(worker: Worker, store: Store) -> float:
    """Write the current model without a tokenizer, from worker 0. Every worker must call it. Returns and raises as `export_student`."""
    with tempfile.TemporaryDirectory() as folder:
        difference = _save_model(worker, folder)
        if worker.rank == 0:
            store.clear()
            store.put_folder(folder)
    worker.wait_for_all()
    return difference


def _save_model(worker: Worker, folder: str) -> float:
    """Write the model from worker 0, with adapters merged in float32, and compare its logits with the trained one's."""
    import torch

    model, state, difference = worker.engine.module.model, full_state(worker.engine), 0.0
    if state is not None:
        merged = merge_adapters(model, state)
        model.save_pretrained(folder, state_dict=merged)
        if worker.run.student.lora is not None:
            config = copy.deepcopy(model.config)
            config.dtype = torch.float32  # save_pretrained writes the precision of the training
            config.save_pretrained(folder)
        difference = logits_difference(model, folder, state, worker.run.student.lora, worker.probe())
    difference = worker.gather(difference)[0]
    check_difference(difference)
    return difference


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
