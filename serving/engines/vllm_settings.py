"""vLLM's own settings: of an engine, and of each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.config.serving import ServingConfig
from pipelines.runtime.compat.vllm import cpu_attention_head_sizes
from pipelines.students.decoding import GenerationRequest
from serving.model_card import StudentCard

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs, SamplingParams

_MEMORY_SHARE = 0.85
"""Of a GPU's memory, for all engines of a replica. Each engine takes its part at the start, whether or not it needs it."""
_CPU_BATCH_TOKENS = 4096
_MAX_LOGPROBS = 128
"""Token ids for which one request may ask log-probabilities (vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS)."""


def engine_arguments(card: StudentCard, serving: ServingConfig, folder: str) -> AsyncEngineArgs:
    """The settings of an engine for student files on this machine."""
    from vllm import AsyncEngineArgs

    max_tokens = card.max_input_tokens + max(serving.max_new_tokens, card.max_target_tokens)
    arguments = AsyncEngineArgs(
        model=folder,
        dtype=serving.weights,
        max_model_len=max_tokens,
        max_num_seqs=max(serving.max_batch_size, 1),
        enable_prefix_caching=True,
        disable_log_stats=True,
        logprobs_mode="raw_logprobs",
        max_logprobs=_MAX_LOGPROBS,
        # The folder's own generation settings (sampling, penalties) would change the answers.
        generation_config="vllm",
        trust_remote_code=False,
        # The default would take pickled weights if there are no others.
        load_format="safetensors",
    )
    if serving.gpus_per_replica:
        arguments.gpu_memory_utilization = _MEMORY_SHARE / (serving.students_per_replica or 1)
    else:
        arguments.enforce_eager = True
        # vLLM 0.29's CPU engine dies of a request with a seed whose prompt is prefilled in chunks.
        arguments.enable_chunked_prefill = False
        arguments.max_num_batched_tokens = max(max_tokens, _CPU_BATCH_TOKENS)
    return arguments


def sampling_parameters(request: GenerationRequest, kind: str) -> SamplingParams:
    """The request in vLLM's terms. `kind`: name of a RequestOutputKind."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(
        max_tokens=request.max_new_tokens,
        temperature=request.sampling.temperature if request.sampling else 0.0,
        top_p=request.sampling.top_p if request.sampling else 1.0,
        seed=request.sampling.seed if request.sampling else None,
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


def returns_watched(request: GenerationRequest) -> bool:
    """True if vLLM returns the log-probability of all watched tokens. Otherwise the confidence is the plain product.

    It limits their number, and earlier versions return none.
    """
    from vllm import SamplingParams

    return len(request.watched) <= _MAX_LOGPROBS and hasattr(SamplingParams, "logprob_token_ids")
