"""The estimate of a worker's memory: parameters as transformers and peft count them, and the shards of ZeRO."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.planning.model import TrainMemory
from cluster.planning.training_memory import Shape, student_shape, training_memory
from pipelines.config import LoraConfig, StudentConfig, TrainingConfig

STUDENT = StudentConfig(model="m")
FIRST_LAYER = StudentConfig.model_validate({"model": "m", "init": {"kind": "first-layers", "layers": 1}})


def configs() -> list[Any]:
    from transformers import LlamaConfig, T5Config

    llama = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    llama |= {"vocab_size": 500}
    t5 = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": 500}
    return [
        LlamaConfig(**llama, num_key_value_heads=2, tie_word_embeddings=True),
        LlamaConfig(**llama, tie_word_embeddings=False),
        T5Config(**t5, num_decoder_layers=3),
        T5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ]


@pytest.mark.parametrize(("which", "layers"), [(0, 3), (1, 3), (2, 5), (3, 4)])
def test_parameters_are_those_of_the_libraries(which: int, layers: int) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from pipelines.train.engine.lora import add_adapters

    config = configs()[which]
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    shape, model = student_shape(config.to_dict(), STUDENT), kind.from_config(config)
    assert shape.layers == layers
    # Norms and T5's position biases are not counted.
    assert shape.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.01)
    add_adapters(model, LoraConfig(rank=3), seed=0)
    assert 3 * shape.linear == sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = training_memory(shape, TrainingConfig(gpus_per_worker=1), LoraConfig(rank=3))
    assert (memory.gradients, memory.optimizer) == (2 * 3 * shape.linear, 6 * 3 * shape.linear)
    assert memory.weights == 2 * shape.parameters


def test_shapes_may_be_cut_or_unknown() -> None:
    config = configs()[0].to_dict()
    whole, part = student_shape(config, STUDENT), student_shape(config, FIRST_LAYER)
    assert (part.layers, part.parameters < whole.parameters) == (1, True)
    assert student_shape({"model_type": "mamba"}, STUDENT) is None
    assert student_shape({**config, "num_experts_per_tok": 2}, STUDENT) is None


def test_zero_stages_shard_their_parts() -> None:
    shape = Shape(parameters=1000, layers=2, hidden=8, vocabulary=100)

    def of(**training: Any) -> TrainMemory:
        return training_memory(shape, TrainingConfig(**{"workers": 2, "gpus_per_worker": 1, **training}))

    kinds = ("weights", "gradients", "optimizer")
    sizes = {stage: tuple(getattr(of(zero_stage=stage), kind) for kind in kinds) for stage in range(4)}
    # 16 bytes per weight without ZeRO (Rajbhandari et al. 2020, section 3.1). ZeRO 2 and 3 accumulate gradients in float32.
    assert sizes == {0: (2000, 2000, 12000), 1: (2000, 2000, 6000), 2: (2000, 2000, 6000), 3: (1000, 2000, 6000)}
    assert of(zero_stage=0, precision="fp32").optimizer == 8000, "the weights are the optimizer's own"
    assert of(zero_stage=3, offload="parameters").weights == of(zero_stage=2, offload="optimizer").optimizer == 0
    assert of(precision="fp32").activations == of(gpus_per_worker=0).activations == 2 * of().activations
    assert of(activation_checkpointing=True).activations < of().activations
    limits = {"max_input_tokens": 256, "max_target_tokens": 128}
    small, same = of(tokens_per_batch=512, **limits), of(tokens_per_micro_batch=256 + 384, **limits)
    assert small == same, "a step of 512 tokens on two workers fills no micro-batch of 8,192"
    assert of().total == sum(of().model_dump(exclude={"parameters", "total"}).values())
    assert training_memory(replace(shape, vocabulary=200), TrainingConfig(gpus_per_worker=1)).logits == 2 * of().logits


@pytest.mark.parametrize(("encoder", "decoder"), [(2, 1), (1, 2)])
def test_t5_keeps_its_attention_matrices(encoder: int, decoder: int) -> None:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    longest, target = 256, 128
    config = T5Config(
        d_model=64, d_kv=16, d_ff=128, num_layers=encoder, num_decoder_layers=decoder, num_heads=4, vocab_size=50,
        decoder_start_token_id=0,
    )  # fmt: skip
    model, kept = T5ForConditionalGeneration(config).train(), {}

    def keep(tensor: Any) -> Any:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ones = {
        name: torch.ones(1, n, dtype=torch.long) for name, n in (("input_ids", longest), ("decoder_input_ids", target))
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**ones, use_cache=False).logits.sum()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    measured = sum(size for at, size in kept.items() if at not in weights)
    sizes = {"max_input_tokens": longest, "max_target_tokens": target, "tokens_per_micro_batch": longest + target}
    training = TrainingConfig(workers=1, precision="fp32", **sizes)
    shape = student_shape(config.to_dict(), STUDENT)
    estimate = training_memory(shape, training)
    assert estimate.activations + estimate.attention == pytest.approx(measured, rel=0.15)
    assert estimate.attention > estimate.activations
    del loss
