"""A rough estimate of the memory that training takes per worker, from the student's config.json. Pure.

    weights      2 bytes each in bf16 on GPUs, 4 in fp32 and on CPUs; ZeRO 3 shards them
    gradients    the same for trained weights; ZeRO 2 and 3 shard them, in float32
    optimizer    per trained weight 8 bytes for Adam's moments, and 4 for a copy in float32 if needed; ZeRO 1 to 3 shard it
    activations  34 bytes x hidden size per token and layer in bf16, twice that in fp32 (Korthikanti et al. 2022, "Reducing Activation
                 Recomputation", section 4, without the attention matrix); with activation_checkpointing 2 bytes, and one whole layer
    attention    of T5 alone: its position bias needs a gradient, so that each attention keeps its matrix of heads x queries x keys, with
                 dropout three times, for texts as long as the limits. No other kernel here keeps it
    logits       of the target tokens, and their gradient

Offloaded parts are in CPU memory and not counted; neither is the GPU's runtime (1 to 2 GiB).
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.planning.estimate import ConfigJson, active_parameters
from cluster.planning.model import TrainMemory, TrainStorage
from pipelines.config import LoraConfig, StudentConfig, TrainingConfig
from pipelines.students.init import vocabulary_rows

_BYTES = {"bf16": 2, "fp32": 4}
_ACTIVATION_BYTES = 34
_KEPT_ATTENTIONS = 3
"""Probabilities before and after dropout, and the mask of dropout."""


@dataclass(frozen=True)
class Shape:
    """The size of a student."""

    parameters: int
    layers: int
    """Encoder and decoder together."""
    hidden: int
    vocabulary: int
    linear: int = 0
    """Sum of inputs and outputs over all linear layers except the head. Adapters of rank r have r times as many weights."""
    encoder: int = 0
    """T5: layers of the encoder. 0: decoder-only."""
    heads: int = 0
    """T5: attention heads."""


def student_shape(config: ConfigJson, student: StudentConfig) -> Shape | None:
    """The shape in a config.json, cut to `init.layers`. None unless the architecture is like Llama or T5."""
    if student.init.vocabulary:
        config = {**config, "vocab_size": vocabulary_rows(student.init.vocabulary)}
    try:
        return _t5(config, student) if config.get("is_encoder_decoder") else _llama(config, student)
    except (KeyError, TypeError, ValueError):
        return None


def _llama(config: ConfigJson, student: StudentConfig) -> Shape | None:
    if config.get("num_experts_per_tok"):
        return None  # a mixture of experts has more weights than a token passes through
    layers = student.init.layers or int(config["num_hidden_layers"])
    parameters = active_parameters({**config, "num_hidden_layers": layers})
    if not parameters:
        return None
    hidden, inner, heads = (int(config[k]) for k in ("hidden_size", "intermediate_size", "num_attention_heads"))
    width = int(config.get("head_dim") or hidden // heads)
    groups = int(config.get("num_key_value_heads") or heads)
    linear = layers * (4 * hidden + 2 * width * (heads + groups) + 3 * (hidden + inner))
    return Shape(int(parameters), layers, hidden, int(config["vocab_size"]), linear)


def _t5(config: ConfigJson, student: StudentConfig) -> Shape:
    hidden, vocabulary, inner = (int(config[k]) for k in ("d_model", "vocab_size", "d_ff"))
    encoder = student.init.layers or int(config["num_layers"])
    decoder = student.init.layers or int(config.get("num_decoder_layers") or config["num_layers"])
    attention = 4 * hidden * int(config["num_heads"]) * int(config["d_kv"])
    feed_forward = (3 if str(config.get("feed_forward_proj", "")).startswith("gated") else 2) * hidden * inner
    embeddings = hidden * vocabulary * (1 if config.get("tie_word_embeddings", True) else 2)
    layers = encoder * (attention + feed_forward) + decoder * (2 * attention + feed_forward)
    attention_linear = 4 * (hidden + int(config["num_heads"]) * int(config["d_kv"]))
    feed_forward_linear = feed_forward // (hidden * inner) * (hidden + inner)
    linear = (encoder + 2 * decoder) * attention_linear + (encoder + decoder) * feed_forward_linear
    return Shape(embeddings + layers, encoder + decoder, hidden, vocabulary, linear, encoder, int(config["num_heads"]))


def training_memory(shape: Shape, training: TrainingConfig, lora: LoraConfig | None = None) -> TrainMemory:
    """The estimate of the module's docstring."""
    trained = shape.parameters if lora is None else lora.rank * shape.linear
    whole_bf16 = _whole_bf16(training)  # what CPUs keep of products in bf16 is less than estimated here
    size, stage, workers = _BYTES["bf16" if whole_bf16 else "fp32"], training.zero_stage, training.workers
    one_copy = stage == 0 and not whole_bf16  # the optimizer updates the weights in place
    shards = {least: workers if stage >= least else 1 for least in (1, 2, 3)}
    in_memory = {"none": (1, 1), "optimizer": (1, 0), "parameters": (0, 0)}[training.offload]
    tokens = _micro_batch(training)
    whole = _ACTIVATION_BYTES * size // 2 * shape.hidden * tokens
    kept = (
        size * shape.hidden * tokens * shape.layers + whole
        if training.activation_checkpointing
        else whole * shape.layers
    )
    targets = tokens * training.max_target_tokens // (training.max_input_tokens + training.max_target_tokens)
    parts = {
        "weights": shape.parameters * size // shards[3] * in_memory[0],
        "gradients": trained * (4 if stage >= 2 else size) // shards[2],
        "optimizer": trained * (8 if one_copy else 12) // shards[1] * in_memory[1],
        "activations": kept,
        "logits": 2 * size * targets * shape.vocabulary,
        "attention": size * _attention_cells(shape, training, targets),
    }
    return TrainMemory(parameters=shape.parameters, **parts, total=sum(parts.values()))


def training_storage(shape: Shape, training: TrainingConfig, lora: LoraConfig | None = None) -> TrainStorage:
    """Bytes of the student, whose adapters are merged in float32, and of all checkpoints while the last one is uploaded.

    A checkpoint has each trained weight in float32 and Adam's two moments.
    """
    trained = shape.parameters if lora is None else lora.rank * shape.linear
    size = _BYTES["bf16" if _whole_bf16(training) and lora is None else "fp32"]
    return TrainStorage(student=shape.parameters * size, checkpoints=trained * 12 * (training.keep_checkpoints + 1))


def _whole_bf16(training: TrainingConfig) -> bool:
    """On CPUs only matrix products are in bf16."""
    return training.precision != "fp32" and training.gpus_per_worker > 0


def _micro_batch(training: TrainingConfig) -> int:
    """Tokens of a worker's largest micro-batch: a step that is smaller than the limit has no larger one."""
    longest = training.max_input_tokens + training.max_target_tokens
    return min(training.tokens_per_micro_batch, training.tokens_per_batch // training.workers + longest)


def _attention_cells(shape: Shape, training: TrainingConfig, targets: int) -> int:
    """Numbers that T5's attentions keep, for texts as long as the limits; with activation_checkpointing those of one layer."""
    if not shape.encoder:
        return 0
    longest, target = training.max_input_tokens, training.max_target_tokens
    encoder = (_micro_batch(training) - targets) * longest
    decoder = targets * (target + longest)  # of itself, and of the encoder's output
    if training.activation_checkpointing:
        return _KEPT_ATTENTIONS * shape.heads * max(encoder, decoder)
    return _KEPT_ATTENTIONS * shape.heads * (shape.encoder * encoder + (shape.layers - shape.encoder) * decoder)
