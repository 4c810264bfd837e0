"""Student -> text, the same for evaluation and serving. Also how prompts and targets become tokens, in training too.

An encoder-decoder student reads the prompt in its encoder. A decoder-only student reads the prompt and a line break,
then writes the target and its end-of-sequence token.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.artifacts import Store, require_manifest
from pipelines.errors import UserError
from pipelines.methods import Part, prompt_of

Family = Literal["encoder-decoder", "decoder-only"]
MODEL_FILES = ("config.json",)
_STATEMENT = "answer is"


def encode_prompt(tokenizer: Any, family: Family, prompt: str) -> list[int]:
    """Token ids of a prompt. Decoder-only: with the line break that ends it, and BOS where the tokenizer adds one."""
    if family == "encoder-decoder":
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer(prompt + "\n")["input_ids"])


def encode_target(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a target, closed by the end-of-sequence token."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def model_family(config: Any) -> Family:
    """The family of a transformers config."""
    return "encoder-decoder" if config.is_encoder_decoder else "decoder-only"


def check_model(model: str, key: str) -> None:
    """Refuse a local folder that is not a Hugging Face model. Anything that is not a folder is taken for a hub id.

    Raises:
        UserError: a path that does not exist, or a folder without config.json, weights in safetensors or a tokenizer.
    """
    path = Path(model).expanduser()
    if not path.exists():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise UserError(f"{key} {model}", "there is no such folder", "Give a hub id or an existing model folder.")
        return
    if not (path / "config.json").is_file():
        raise UserError(f"{key} {model}", "the folder has no config.json", "Give a Hugging Face model folder.")
    if any(path.glob("*.bin")) and not any(path.glob("*.safetensors")):
        rule = "its weights are pickled (*.bin), which can run code when they are read"
        raise UserError(f"{key} {model}", rule, "Convert them to safetensors.")


@dataclass(frozen=True)
class Decoded:
    """One part of a student's answer."""

    text: str
    confidence: float
    """Product of the probabilities of the label's tokens, the end-of-sequence token included. Of a rationale, and of a text in which no
    `answer is` stands, of all tokens."""
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Sampling:
    """Answers drawn from the student's distribution, in place of the likeliest one. The same text and numbers give the same answer, however
    it is batched (in float32): each text has a stream of chance of its own."""

    temperature: float
    """Above 0; 1: the distribution as it is."""
    seed: int = 0
    draw: int = 0
    """Which of several answers to the same text."""


class Student:
    """A model that answers. Greedy: the same texts give the same answers, however they are batched (in float32)."""

    def __init__(
        self, model: Any, tokenizer: Any, *, method: str, max_input_tokens: int, max_target_tokens: int = 256,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.method = method
        self.max_target_tokens = max_target_tokens
        self.family: Family = model_family(model.config)
        self.max_input_tokens = max_input_tokens
        self.device = device
        self.tokenizer = tokenizer
        self.model = model.to(device).eval()
        self._eos = int(tokenizer.eos_token_id)
        self._pad = self._eos if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Student:
        """The student of a finished student folder or URI. Reads safetensors, runs no code of the folder's.

        Raises:
            UserError: there is no finished student, its weights are not safetensors, or transformers cannot load it.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        store = Store(str(folder))
        manifest = require_manifest(store, "student", "train RUN")
        with store.local_copy() as path:
            check_model(str(path), "student")
            trusted = {"local_files_only": True, "trust_remote_code": False}
            try:
                config = AutoConfig.from_pretrained(path, **trusted)
                kind = AutoModelForSeq2SeqLM if model_family(config) == "encoder-decoder" else AutoModelForCausalLM
                model, loaded = kind.from_pretrained(
                    path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **trusted
                )
                tokenizer = AutoTokenizer.from_pretrained(path, **trusted)
            except (OSError, ValueError, SafetensorError) as error:
                raise UserError(store.shown(), f"transformers cannot load it ({error})", "Train it anew.") from error
        # transformers fills what is missing with random numbers, and goes on.
        if missing := sorted(loaded["missing_keys"]):
            raise UserError(store.shown(), f"its weights lack {', '.join(missing[:3])}", "Train it anew.")
        details = manifest.details
        limits = {key: details[key] for key in ("max_input_tokens", "max_target_tokens")}
        return cls(model, tokenizer, method=details["method"], device=device, **limits)

    def count_tokens(self, text: str, part: Part) -> int:
        """Tokens that the student reads for one part; to be compared with `max_input_tokens`."""
        return len(encode_prompt(self.tokenizer, self.family, prompt_of(self.method, part, text)))

    def answer(
        self, texts: Sequence[str], part: Part, max_new_tokens: int, *, sampling: Sampling | None = None
    ) -> list[Decoded]:
        """Write one part of the answer to each text, as one padded batch. Texts are not cut: see `count_tokens`.

        Args:
            max_new_tokens: of a label or a rationale. A text of both may be as long as the student was trained to write.
            sampling: None: greedy.

        Raises:
            ValueError: the method trains no such part.
        """
        import torch
        from transformers import LogitsProcessorList

        if not texts:
            return []
        prompts = [encode_prompt(self.tokenizer, self.family, prompt_of(self.method, part, text)) for text in texts]
        ids, mask = self._pad_batch(prompts)
        chosen = _Greedy() if sampling is None else _Drawn(sampling, texts)
        if part == "text":
            max_new_tokens = max(max_new_tokens, self.max_target_tokens)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._greedy(max_new_tokens),
                logits_processor=LogitsProcessorList([chosen]),
            )
        # A decoder-only model returns the prompt too, an encoder-decoder one its start token.
        written = output[:, output.shape[1] - len(chosen.steps) :].tolist()
        log_probs = torch.stack(chosen.steps, dim=1).tolist()
        return [self._decoded(part, *row) for row in zip(prompts, written, log_probs, strict=True)]

    def _pad_batch(self, prompts: list[list[int]]) -> tuple[Any, Any]:
        """Ids and mask (1 = token, 0 = padding), each (batch, longest). Decoder-only: padding comes first."""
        import torch

        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            where = slice(0, len(prompt)) if self.family == "encoder-decoder" else slice(longest - len(prompt), longest)
            ids[row, where] = torch.tensor(prompt)
            mask[row, where] = 1
        return ids.to(self.device), mask.to(self.device)

    def _greedy(self, max_new_tokens: int) -> Any:
        """Greedy, and nothing else: what a model's own file sets (sampling, penalties) would change the answers."""
        from transformers import GenerationConfig

        start = getattr(self.model.config, "decoder_start_token_id", None)
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._eos,
            pad_token_id=self._pad,
            decoder_start_token_id=start,
        )
        # generate() fills what a passed config leaves open from the model's own.
        self.model.generation_config = config
        return config

    def _decoded(self, part: Part, prompt: list[int], written: list[int], log_probs: list[float]) -> Decoded:
        length = written.index(self._eos) + 1 if self._eos in written else len(written)
        first = self._statement(written[:length]) if part == "text" else 0
        return Decoded(
            text=self.tokenizer.decode(written[:length], skip_special_tokens=True).strip(),
            confidence=math.exp(math.fsum(log_probs[first:length])),
            prompt_tokens=len(prompt),
            output_tokens=length,
        )

    def _statement(self, written: list[int]) -> int:
        """The token with which the statement of the label begins: after the last `answer is`; 0 where there is none."""
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        at = text.rfind(_STATEMENT)
        if at < 0:
            return 0
        return tokens_within(written, at + len(_STATEMENT), self.tokenizer)


def tokens_within(ids: Sequence[int], characters: int, tokenizer: Any) -> int:
    """How many of the tokens, from the first, spell no more than so many characters."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.decode(ids[:middle], skip_special_tokens=True)) <= characters:
            low = middle
        else:
            high = middle - 1
    return low


class _Greedy:
    """A logits processor that changes nothing: it notes the log probability of each step's greedy token, (batch,) each.

    Keeping the scores instead would hold steps x batch x vocabulary floats: 2.5 GB for 64 x 64 of a 152k vocabulary.
    """

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        logits = scores.float()
        self.steps.append(logits.amax(dim=-1) - logits.logsumexp(dim=-1))
        return scores


class _Drawn:
    """A logits processor that leaves the greedy choice one token, which it draws; it notes the token's log probability, (batch,) each.

    One uniform number per row and step chooses where the distribution has summed up to it. torch's own sampling takes its numbers
    for a whole batch: an answer would then depend on what else is in the batch.
    """

    def __init__(self, sampling: Sampling, texts: Sequence[str]) -> None:
        self.steps: list[Any] = []
        self._temperature = sampling.temperature
        self._streams = [random.Random(f"{sampling.seed}/{sampling.draw}/{text}") for text in texts]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        logits = scores.float()
        summed = (logits / self._temperature).softmax(dim=-1).double().cumsum(dim=-1)
        uniform = torch.tensor([[stream.random()] for stream in self._streams], dtype=summed.dtype).to(summed.device)
        drawn = torch.searchsorted(summed, uniform * summed[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
        self.steps.append(logits.gather(-1, drawn)[:, 0] - logits.logsumexp(dim=-1))
        return torch.full_like(scores, -math.inf).scatter(-1, drawn, 0.0)
