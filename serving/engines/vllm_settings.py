"""Settings of a replica's vLLM engine."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.students.decoding import vllm_settings
from pipelines.students.decoding.vllm_settings import check_cpu_attention, sampling_parameters
from serving.model_card import StudentCard

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs

VLLM_BATCH = 256
"""Texts that vLLM generates at the same time by default (its max_num_seqs)."""
_DEFAULTS = {"block_size"}
"""Arguments that serving.engine_args replaces."""
__all__ = ["VLLM_BATCH", "check_cpu_attention", "engine_arguments", "sampling_parameters"]


def engine_arguments(card: StudentCard, serving: ServingConfig, folder: str) -> AsyncEngineArgs:
    """The settings of an engine for student files on this machine.

    Raises:
        UserError: vLLM has no argument of a name in `engine_args`, or another setting decides it.
    """
    from vllm import AsyncEngineArgs

    arguments = vllm_settings.engine_arguments(
        folder,
        weights=serving.weights,
        max_tokens=card.max_input_tokens + max(serving.max_new_tokens, card.max_target_tokens),
        sequences=serving.max_batch_size or VLLM_BATCH,
        gpu_share=1.0 / (serving.students_per_replica or 1) if serving.gpus_per_replica else None,
    )
    arguments["served_model_name"] = card.id  # the label of its metrics
    if serving.gpus_per_replica > 1:
        # Worker processes of this replica. By default vLLM would start actors, for which Ray has no GPUs left.
        arguments |= {"tensor_parallel_size": serving.gpus_per_replica, "distributed_executor_backend": "mp"}
    own = {*arguments, "tensor_parallel_size", "distributed_executor_backend"} - _DEFAULTS
    check_engine_args(serving.engine_args, own, [field.name for field in dataclasses.fields(AsyncEngineArgs)])
    return AsyncEngineArgs(**{**arguments, **serving.engine_args})


def check_engine_args(given: Collection[str], own: Collection[str], known: Sequence[str]) -> None:
    """Raises UserError for the first name that cannot be set. `own`: those that other settings decide. `known`: vLLM's."""
    for name in given:
        value = f"serving.engine_args.{name}"
        if name in own:
            raise UserError(value, "other settings of the section, or the student, decide it", "Remove it.")
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 3)
            remedy = f"Set {' or '.join(nearest)}." if nearest else "Remove it."
            raise UserError(value, "vLLM has no such argument", remedy)
