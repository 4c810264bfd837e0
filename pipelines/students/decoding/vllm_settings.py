"""What the student's two engines in vLLM share: their files, the settings of an engine, and those of each request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError, last_line
from pipelines.runtime.compat.vllm import cpu_attention_head_sizes
from pipelines.runtime.cpus import inherited
from pipelines.runtime.terminal import own_log
from pipelines.runtime.vllm_cpu import cpu_arguments
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.students.content import checked_copy
from pipelines.students.decoding.checks import check_student_files
from pipelines.students.decoding.engines import EngineUnsuitableError
from pipelines.students.decoding.label_scores import LabelSet, Scores
from pipelines.students.decoding.requests import GenerationRequest

if TYPE_CHECKING:
    from vllm import SamplingParams

_MEMORY_SHARE = 0.85
"""Of a GPU's memory, for all engines of a replica. Each engine takes its part at the start, whether or not it needs it."""
_MAX_LOGPROBS = 128
"""Token ids for which one request may ask log-probabilities (vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS)."""


@contextmanager
def vllm_files(
    store: Store, manifest: Manifest, environment: Mapping[str, str], *, gpus: int, remedy: str
) -> Iterator[str]:
    """The checked files of a student in a local folder. The block starts vLLM with it.

    Args:
        environment: variables of the processes that it starts.
        remedy: if memory is short.

    Raises:
        EngineUnsuitableError: vLLM is not installed, or does not know the model.
        UserError: the files fail `check_student_files` or `checked_copy`, or the engine does not start.
    """
    check_student_files(store)
    try:
        with checked_copy(store, manifest) as folder, inherited(environment):
            if not gpus:
                check_cpu_attention(str(folder))
            yield str(folder)
    except (ImportError, ValueError) as error:
        raise EngineUnsuitableError(str(error)) from error
    except RuntimeError as error:  # its process failed; that process' log lines say more than this error
        rule = f"vLLM does not start for it ({last_line(error)})"
        raise UserError(store.shown(), rule, f"See {own_log()}. If memory is short, {remedy}.") from error


def engine_arguments(
    folder: str, *, weights: str, max_tokens: int, sequences: int, gpu_share: float | None
) -> dict[str, Any]:
    """Arguments of an engine for student files on this machine.

    Args:
        max_tokens: of prompt and answer together.
        sequences: texts that are generated at the same time.
        gpu_share: share of the engine in the memory that students may take of a GPU. None: on CPUs.
    """
    arguments: dict[str, Any] = {
        "model": folder,
        "dtype": weights,
        "max_model_len": max_tokens,
        "max_num_seqs": max(sequences, 1),
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": _MAX_LOGPROBS,
        # The folder's own generation settings (sampling, penalties) would change the answers.
        "generation_config": "vllm",
        "trust_remote_code": False,
        # The default would take pickled weights if there are no others.
        "load_format": "safetensors",
    }
    if gpu_share is not None:
        return {**arguments, "gpu_memory_utilization": _MEMORY_SHARE * gpu_share}
    return {**arguments, **cpu_arguments(max_tokens)}


def sampling_parameters(request: GenerationRequest, kind: str) -> SamplingParams:
    """The request in vLLM's terms. `kind`: name of a RequestOutputKind."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(
        max_tokens=request.max_new_tokens,
        temperature=request.sampling.temperature if request.sampling else 0.0,
        top_p=request.sampling.top_p if request.sampling else 1.0,
        # Draws of one input need seeds of their own.
        seed=request.sampling.seed + request.sampling.draw if request.sampling else None,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind[kind],
    )
    if request.watched and returns_watched(request):
        # Besides the generated token: the tokens at which the labels of the set differ.
        parameters.logprobs = len(request.watched)
        parameters.logprob_token_ids = list(request.watched)
    return parameters


def check_cpu_attention(folder: str) -> None:
    """Raises ValueError if vLLM on CPUs does not compute attention heads of the student's size: it would start, and die at the first token.

    A model without such heads passes: vLLM reports itself whether it knows the architecture.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if isinstance(heads, int) else None)
    known = cpu_attention_head_sizes()
    if size is not None and size not in known:
        sizes = ", ".join(map(str, known))
        raise ValueError(f"the student has attention heads of size {size}, and vLLM on CPUs has sizes {sizes}")


def returns_scores() -> bool:
    """True if this version of vLLM returns the log-probabilities of requested tokens. Constrained decoding needs them."""
    from vllm import SamplingParams

    return hasattr(SamplingParams, "logprob_token_ids")


def returns_watched(request: GenerationRequest) -> bool:
    """True if vLLM returns the log-probabilities of all watched tokens of each step. It limits their number."""
    return len(request.watched) <= _MAX_LOGPROBS and returns_scores()


def scores_of(log_probs: Sequence[Any], request: GenerationRequest) -> Scores | None:
    """Scores of the watched tokens from a request's log-probabilities; None if vLLM did not return them all."""
    if not returns_watched(request):
        return None
    return lambda step: [log_probs[step][token].logprob for token in request.watched]


def parts_of(request: GenerationRequest) -> list[GenerationRequest]:
    """A request for one token as several, each with so few watched tokens that vLLM returns them, in their order."""
    number = -(-len(request.watched) // _MAX_LOGPROBS)
    size = -(-len(request.watched) // number)
    starts = range(0, len(request.watched), size)
    sets = [LabelSet(tuple((token,) for token in request.watched[start : start + size])) for start in starts]
    return [replace(request, labels=labels) for labels in sets]
