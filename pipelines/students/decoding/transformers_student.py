"""A student in transformers: on CPUs and GPUs, of either family. Greedy: the same texts give the same answers, however they are
batched (in float32)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pipelines.errors import UserError
from pipelines.methods import Part, prompt_of
from pipelines.storage.manifest import Manifest, require_manifest
from pipelines.storage.store import Store
from pipelines.students.decoding.checks import check_student_files
from pipelines.students.decoding.label_scores import Scores, label_sets
from pipelines.students.decoding.requests import Decoded, GenerationOutput, GenerationRequest, Sampling, decoded
from pipelines.students.decoding.sampling import Gone, OnTokens, Sampler
from pipelines.students.decoding.tokens import Family, encode_prompt


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


class Student:
    """A model that answers. Greedy: the same texts give the same answers, however they are batched (in float32)."""

    lanes: int = 1
    """Calls of `write` that run side by side, from threads of their own, faster than one after the other."""

    def __init__(
        self, model: Any, tokenizer: Any, *, method: str, max_input_tokens: int, max_target_tokens: int = 256,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.device = device
        self.model = model.to(device).eval()
        self._set(
            tokenizer, family=model_family(model.config), method=method, max_input_tokens=max_input_tokens,
            max_target_tokens=max_target_tokens,
        )  # fmt: skip

    def _set(
        self, tokenizer: Any, *, family: Family, method: str, max_input_tokens: int, max_target_tokens: int
    ) -> None:
        self.tokenizer, self.family, self.method = tokenizer, family, method
        self.max_input_tokens, self.max_target_tokens = max_input_tokens, max_target_tokens
        self.eos = int(tokenizer.eos_token_id)
        self._label_set = label_sets(tokenizer)
        self._pad = self.eos if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Self:
        """The student of a finished student folder or URI. Reads safetensors, runs no code of the folder's.

        Raises:
            UserError: there is no finished student, its weights are not safetensors, it brings code along, or transformers cannot load it.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        store = Store(str(folder))
        manifest = require_manifest(store, "student", "train RUN")
        check_student_files(store)
        with store.local_copy() as path:
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
        return cls(model, tokenizer, device=device, **student_limits(manifest))

    def count_tokens(self, text: str, part: Part) -> int:
        """Tokens that the student reads for one part; to be compared with `max_input_tokens`."""
        return len(encode_prompt(self.tokenizer, self.family, prompt_of(self.method, part, text)))

    def answer(
        self, texts: Sequence[str], part: Part, max_new_tokens: int, *, sampling: Sampling | None = None,
        labels: Sequence[tuple[str, ...]] | None = None,
    ) -> list[Decoded]:  # fmt: skip
        """Write one part of the answer to each text, as one padded batch. Texts are not cut: see `count_tokens`.

        Args:
            max_new_tokens: of a label or a rationale. A text of both may be as long as the student was trained to write.
            sampling: None: greedy.
            labels: the closed set of each text, as methods.written_labels gives it.

        Raises:
            ValueError: the method trains no such part.
        """
        sets = [()] * len(texts) if labels is None else labels
        orders = [self.order(text, part, max_new_tokens, sampling, s) for text, s in zip(texts, sets, strict=True)]
        return [decoded(part, written, self.tokenizer) for written in self.write(orders)]

    def order(
        self, text: str, part: Part, max_new_tokens: int, sampling: Sampling | None = None, labels: tuple[str, ...] = ()
    ) -> GenerationRequest:
        """What is to be written for one part of the answer to a text; arguments as of `answer`."""
        if part == "text":
            max_new_tokens = max(max_new_tokens, self.max_target_tokens)
        return GenerationRequest(
            prompt_of(self.method, part, text), max_new_tokens, sampling, self._label_set(part, labels)
        )

    def write(
        self, orders: Sequence[GenerationRequest], on_tokens: OnTokens | None = None, gone: Gone | None = None
    ) -> list[GenerationOutput]:
        """Write some texts as one padded batch, each no longer than its order says.

        Args:
            on_tokens: is told the tokens of all rows after each step.
            gone: rows that need not be written to their end.
        """
        if not orders:
            return []
        prompts = [encode_prompt(self.tokenizer, self.family, order.prompt) for order in orders]
        tokens, log_probs, scores = self._generate(prompts, orders, on_tokens, gone)
        return [self._written(*row) for row in zip(orders, prompts, tokens, log_probs, scores, strict=True)]

    def _written(
        self, order: GenerationRequest, prompt: list[int], tokens: list[int], log_probs: list[float], scores: Scores
    ) -> GenerationOutput:
        tokens = tokens[: order.max_new_tokens]
        ended = self.eos in tokens
        length = tokens.index(self.eos) + 1 if ended else len(tokens)
        return GenerationOutput(
            ids=tuple(tokens[:length]),
            log_probs=tuple(log_probs[:length]),
            prompt_tokens=len(prompt),
            finish_reason="stop" if ended else "length",
            label_log_prob=order.labels.log_prob(tokens[:length], scores) if order.labels else None,
        )

    def _generate(
        self,
        prompts: list[list[int]],
        orders: Sequence[GenerationRequest],
        on_tokens: OnTokens | None,
        gone: Gone | None,
    ) -> tuple[list[list[int]], list[list[float]], list[Scores]]:
        """Tokens, their log-probabilities and the scores for its set of each row; what follows a row's end counts for nothing."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        ids, mask = self._pad_batch(prompts)
        chooser = Sampler(orders, self.eos, on_tokens, gone)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._greedy(max(order.max_new_tokens for order in orders)),
                logits_processor=LogitsProcessorList([chooser]),
                stopping_criteria=StoppingCriteriaList([chooser.ended]),
            )
        # A decoder-only model returns the prompt too, an encoder-decoder one its start token.
        tokens = output[:, output.shape[1] - len(chooser.log_probs) :].tolist()
        return tokens, torch.stack(chooser.log_probs, dim=1).tolist(), chooser.scores()

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
            eos_token_id=self.eos,
            pad_token_id=self._pad,
            decoder_start_token_id=start,
        )
        # generate() fills what a passed config leaves open from the model's own.
        self.model.generation_config = config
        return config


def student_limits(manifest: Manifest) -> dict[str, Any]:
    """Method and lengths of a student artifact, as `Student` takes them."""
    return {key: manifest.details[key] for key in ("method", "max_input_tokens", "max_target_tokens")}
