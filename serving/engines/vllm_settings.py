"""Settings of a replica's vLLM engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import vllm_settings
from pipelines.students.decoding.vllm_settings import check_cpu_attention, sampling_parameters
from serving.model_card import StudentCard

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs

VLLM_BATCH = 256
"""Texts that vLLM generates at the same time by default (its max_num_seqs)."""
__all__ = ["VLLM_BATCH", "check_cpu_attention", "engine_arguments", "sampling_parameters"]


def engine_arguments(card: StudentCard, serving: ServingConfig, folder: str) -> AsyncEngineArgs:
    """The settings of an engine for student files on this machine."""
    from vllm import AsyncEngineArgs

    arguments = vllm_settings.engine_arguments(
        folder,
        weights=serving.weights,
        max_tokens=card.max_input_tokens + max(serving.max_new_tokens, card.max_target_tokens),
        sequences=serving.max_batch_size or VLLM_BATCH,
        gpu_share=1.0 / (serving.students_per_replica or 1) if serving.gpus_per_replica else None,
    )
    return AsyncEngineArgs(**arguments)
