"""Tiny students with random weights and a tokenizer made for the test, in folders as the train stage writes them."""

import json
from pathlib import Path
from typing import Any

from pipelines.storage.manifest import manifest_of, write_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.students.decoding import Family

TEXTS = [
    "Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?",
    "Tom picked 35 pears and Sue picked 9 pears. How many pears did they pick?",
    "4 - 2 - 1",
    "There are 7 shelves with 12 books on each shelf. How many books are there in all?",
    "[label] Maria shares 18 sweets equally among 3 friends.",
]


def tiny_tokenizer(family: Family) -> Any:
    """A byte-level tokenizer. For an encoder-decoder it ends each prompt with the end-of-sequence token, as T5's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<pad>", "</s>", "<s>"]
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if family == "encoder-decoder":
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def tiny_model(family: Family, vocabulary: int, seed: int = 0, width: int = 64) -> Any:
    """About 100,000 float32 parameters, so large that the answers depend on the input.

    Args:
        width: of a decoder-only model, with 4 heads; vLLM has no attention for heads narrower than 32.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    if family == "encoder-decoder":
        model: Any = T5ForConditionalGeneration(
            T5Config(vocab_size=vocabulary, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
                     decoder_start_token_id=0, tie_word_embeddings=False, **ids)
        )  # fmt: skip
    else:
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, **ids)
        )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
    return model.eval()


def write_student(
    folder: Path, family: Family, method: str = "step-by-step", task: str = "arithmetic", *, width: int = 64, seed: int = 0
) -> Path:  # fmt: skip
    """A finished student folder."""
    tokenizer = tiny_tokenizer(family)
    model = tiny_model(family, len(tokenizer), seed, width)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    details = {
        "method": method, "family": family, "task": {"name": task, "version": "1", "options": {}, "source": None},
        "parameters": sum(p.numel() for p in model.parameters()), "max_input_tokens": 64, "max_target_tokens": 32, "training": {},
    }  # fmt: skip
    provenance = {"labels": {"fingerprint": "f" * 64, "prompt_version": f"{task}/1/0", "teacher": {"engine": "echo"}}}
    manifest = manifest_of("student", {"folder": folder.name, "seed": seed}, config={}, counts={}, timings_s={}, details=details,
                           provenance=provenance)  # fmt: skip
    write_manifest(Store(str(folder)), manifest)
    return folder


def copy_with_details(folder: Path, target: Path, **details: Any) -> str:
    """A copy of a student folder with empty weights, whose manifest has other details; None removes one."""
    target.mkdir()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["details"] = {k: v for k, v in (manifest["details"] | details).items() if v is not None}
    (target / MANIFEST).write_text(json.dumps(manifest))
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").touch()
    return str(target)
