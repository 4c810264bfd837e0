"""Factories of tiny models of both families, their tokenizer, runs and labels."""

import json
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from pipelines.data.schema import LABEL, TOKEN_LOGPROBS
from pipelines.storage.manifest import manifest_of, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import TaskSpec
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.train.data.lengths import Lengths
from pipelines.train.data.sequences import TokenSettings
from tests.support.artifacts import label_row

WORDS = [
    "Anne", "Peter", "Tom", "has", "had", "have", "gives", "buys", "sells", "loses", "apples", "pears", "books", "pens", "pen",
    "how", "many", "she", "he", "left", "now", "in", "total", "and", "then", "to", "a", "the", "of", "from", "is", "are", "more",
    "fewer", "each", "box", "boxes", "[label]", "[rationale]", *"0123456789", "+", "-", "*", "/", "=", ".", ",", "?",
]  # fmt: skip


def make_tokenizer() -> Any:
    """A word-level tokenizer with <pad>, </s> and <unk>, which adds no special tokens to a text."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", "\n", *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" |(?=\n)|(?<=\n)"), "removed")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def make_subword_tokenizer(kind: Literal["unigram", "bpe"]) -> Any:
    """Trained on lower-case words. unigram: like T5's, special tokens are pieces, and </s> ends each text. bpe: like Llama's, of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>", "<|im_end|>"]
    texts = ["two and four apples", "the quick brown fox jumps over the lazy dog"] * 10
    trainer: Any
    quiet = {"special_tokens": special, "show_progress": False}
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=100, unk_token="<unk>", **quiet)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **quiet)
    tokenizer.train_from_iterator(texts, trainer)
    if kind == "unigram":
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<|im_end|>"],
    )  # fmt: skip


def make_model(
    family: str, folder: Path, seed: int = 0, layers: int = 2, positions: int = 64, tokenizer: Any = None
) -> str:
    """Save a tiny model with random weights and without dropout, and its tokenizer. Returns the folder.

    `tokenizer`: by default the one of words, which cannot write numbers of several digits.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    tokenizer = make_tokenizer() if tokenizer is None else tokenizer
    torch.manual_seed(seed)
    special = {"pad_token_id": 0, "eos_token_id": 1, "vocab_size": len(tokenizer)}
    if family == "decoder-only":
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
                max_position_embeddings=positions, tie_word_embeddings=True, **special,
            )
        )  # fmt: skip
    else:
        model = T5ForConditionalGeneration(
            T5Config(
                d_model=16, d_kv=8, d_ff=32, num_layers=layers, num_decoder_layers=layers, num_heads=2, dropout_rate=0.0,
                decoder_start_token_id=0, **special,
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_run(output: Path, model: str, **sections: dict[str, Any]) -> RunConfig:
    """A run of the tiny model. `sections` are merged into the run file."""
    tree: dict[str, dict[str, Any]] = {
        "corpus": {"train": "unused.jsonl", "validation": 0.2},
        "teacher": {"engine": "echo"},
        "student": {"model": model},
        "training": {
            "workers": 2, "precision": "fp32", "epochs": 2, "tokens_per_batch": 400, "tokens_per_micro_batch": 160, "learning_rate": 1e-2,
            "max_input_tokens": 40, "max_target_tokens": 20,
        },
    }  # fmt: skip
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return parse_run({"name": "tiny", "output": str(output), "task": "arithmetic", **tree})


def make_token_settings(model: Path | str, **changed: Any) -> TokenSettings:
    """Settings of a decoder-only step-by-step student of arithmetic; 0.3 of the rows are held out."""
    defaults: dict[str, Any] = {
        "family": "decoder-only", "method": "step-by-step", "terms": ("label", "rationale"), "label_column": "gold",
        "validation_share": 0.3, "max_input_tokens": 40, "max_target_tokens": 20, "task": TaskSpec("arithmetic"),
    }  # fmt: skip
    return TokenSettings(model=str(model), **{**defaults, **changed})


def label_rows(count: int, *, gold: bool = True, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of schema.LABEL: small sums with rationales of different lengths."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        a, b = rng.sample(range(1, 10), 2)
        thing = rng.choice(["apples", "pears", "books", "pens"])
        padding = " and then ".join(["Peter has a pen"] * rng.randint(1, 4))
        text = f"{padding} . Anne has {a} {thing} and buys {b} . how many {thing} has she now ?"
        rationale = " . ".join([f"Anne has {a}", f"she buys {b} more", f"{a} + {b}"][: rng.randint(1, 3)]) + " ."
        row = label_row(f"sum-{i}", f"{b} + {a}", f"{a} + {b}" if gold else None, text)
        rows.append({**row, "rationale": rationale, "output_tokens": 9})
    return rows


def write_labels(output: Path, rows: list[dict[str, Any]], files: int = 2) -> None:
    """A finished labels artifact of the rows in OUTPUT/labels."""
    folder = output / "labels" / "data"
    folder.mkdir(parents=True)
    for i in range(files):
        pq.write_table(pa.Table.from_pylist(rows[i::files], schema=LABEL), folder / f"part-{i:05d}.parquet")
    manifest = manifest_of(
        "labels", {"rows": len(rows)}, config={}, timings_s={}, provenance={},
        counts={"read": len(rows), "accepted": len(rows), "rejected": 0},
        details={
            "content": f"rows-{len(rows)}", "prompt_version": "arithmetic/1/abc", "teacher": {"engine": "echo"},
            "task": {"name": "arithmetic", "version": Arithmetic.version},
        },
    )  # fmt: skip
    write_manifest(Store(str(output / "labels")), manifest)
    name_parts(output / "labels")


def name_parts(labels: Path) -> None:
    """Let the manifest name all Parquet files that the folder has."""
    tree = json.loads((labels / "manifest.json").read_text())
    found = {str(p.relative_to(labels)): pq.read_metadata(p).num_rows for p in sorted(labels.rglob("*.parquet"))}
    tree["details"]["parts"] = found
    (labels / "manifest.json").write_text(json.dumps(tree))


def write_tops(output: Path, rows: list[dict[str, Any]], files: int = 2) -> None:
    """labels/token_logprobs of the rows: at each position the text's token with probability 0.7, and two others."""
    tokenizer = make_tokenizer()
    folder = output / "labels" / "token_logprobs"
    folder.mkdir(parents=True)
    tops = []
    for row in rows:
        ids = tokenizer(f"{row['rationale']} The answer is ({row['label']}).")["input_ids"]
        others = [(i + 1) % 20 + 4 for i in ids], [(i + 2) % 20 + 24 for i in ids]
        top = [list(three) for three in zip(ids, *others, strict=True)]
        logprobs = [np.log([0.7, 0.15, 0.05]).astype(np.float16)] * len(ids)
        tops.append({"id": row["id"], "token_ids": ids, "top_ids": top, "top_logprobs": logprobs})
    for i in range(files):
        pq.write_table(pa.Table.from_pylist(tops[i::files], schema=TOKEN_LOGPROBS), folder / f"part-{i:05d}.parquet")
    name_parts(output / "labels")


def random_lengths(examples: int, seed: int = 0, longest: int = 60, *, grouped: bool = False) -> Lengths:
    """Lengths of random sequences, two per example; every seventh example lacks the second."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(5, longest // 2, 2 * examples)
    target = rng.integers(1, longest // 2, 2 * examples)
    target[1::14] = 0
    return lengths_of_pairs(prompt, target, grouped=grouped)


def lengths_of_pairs(prompt: Any, target: Any, *, grouped: bool = False) -> Lengths:
    """Lengths of two sequences per example. A target of 0 means that the sequence is missing."""
    prompt, target = np.asarray(prompt), np.asarray(target)
    exists = target > 0
    starts = np.concatenate([[0], np.cumsum(exists.reshape(-1, 2).sum(axis=1))])
    return Lengths(prompt[exists], target[exists], starts, grouped)
