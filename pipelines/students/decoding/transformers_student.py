"""Students of both families in transformers, on CPUs and GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pipelines.errors import UserError
from pipelines.methods import METHODS, Part, prompt_of
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.content import checked_copy
from pipelines.students.decoding.checks import check_student_files
from pipelines.students.decoding.constrained import LabelWalk, label_walk
from pipelines.students.decoding.label_scores import Scores, label_sets
from pipelines.students.decoding.requests import (
    Decoded,
    GenerationOutput,
    GenerationRequest,
    Sampling,
    after_label,
    decoded,
)
from pipelines.students.decoding.sampling import IsCancelled, OnEnd, OnTokens, Sampler
from pipelines.students.decoding.tokens import Family, encode_prompt


def model_family(config: Any) -> Family:
    """Family of a transformers config."""
    return "encoder-decoder" if config.is_encoder_decoder else "decoder-only"


def check_model(model: str, key: str) -> None:
    """Check that a local folder is a Hugging Face model. A name that is not a path counts as a hub id.

    Args:
        key: run file key, for messages.

    Raises:
        UserError: the path does not exist, the folder lacks a readable config.json, its model only encodes, or it holds pickled weights
            only.
    """
    path = Path(model).expanduser()
    if not path.exists():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise UserError(f"{key} {model}", "the folder does not exist", "Give a hub id or an existing model folder.")
        return
    if not (path / "config.json").is_file():
        raise UserError(f"{key} {model}", "the folder has no config.json", "Give a Hugging Face model folder.")
    try:
        config = json.loads((path / "config.json").read_bytes())
    except ValueError as error:
        rule = f"its config.json is not JSON ({error})"
        raise UserError(f"{key} {model}", rule, "Download or export the model again.") from error
    if not isinstance(config, dict):
        rule = "its config.json is no object of settings"
        raise UserError(f"{key} {model}", rule, "Download or export the model again.")
    check_generates(config, f"{key} {model}")
    if any(path.glob("*.bin")) and not any(path.glob("*.safetensors")):
        rule = "its weights are pickled (*.bin), which can run code when loaded"
        raise UserError(f"{key} {model}", rule, "Convert them to safetensors.")


def check_generates(config: Mapping[str, Any], value: str) -> None:
    """Refuse an encoder such as BERT, by the settings of its config.json. Raises UserError; `value` begins its message."""
    names = config.get("architectures") or []
    encoders = [name for name in names if str(name).endswith("ForMaskedLM")]
    if encoders and not config.get("is_encoder_decoder"):
        rule = f"{encoders[0]} only encodes, must be a model that generates text"
        raise UserError(value, rule, "Give an encoder-decoder such as T5, or a decoder such as SmolLM2 or Qwen.")


class Student:
    """A student that answers. Greedy answers are the same in any batch (in float32)."""

    workers: int = 1
    """Number of threads that may call `write` concurrently to raise the throughput."""
    engine: str = "transformers"
    """Name of the engine that computes."""
    weights: str
    """float32, bfloat16, float16 or int8."""
    schedules: bool = False
    """True: `write` takes any number of requests, and the engine fills each free place at once."""
    returns_scores: bool = True
    """False: the engine cannot decode constrained."""

    def __init__(
        self, model: Any, tokenizer: Any, *, method: str, max_input_tokens: int, max_target_tokens: int = 256,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.device = device
        self.model = model.to(device).eval()
        self.weights = str(model.dtype).removeprefix("torch.")
        details = {"method": method, "max_input_tokens": max_input_tokens, "max_target_tokens": max_target_tokens}
        self._configure(tokenizer, model_family(model.config), details)

    def _configure(self, tokenizer: Any, family: Family, details: Mapping[str, Any]) -> None:
        """`details`: of the student's manifest."""
        self.tokenizer, self.family, self.method = tokenizer, family, details["method"]
        self.max_input_tokens, self.max_target_tokens = details["max_input_tokens"], details["max_target_tokens"]
        self.eos = int(tokenizer.eos_token_id)
        self._label_set = label_sets(tokenizer)
        self._pad = self.eos if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Self:
        """Load a student from the folder or URI of its artifact. Reads safetensors only and never runs student code.

        Raises:
            UserError: the artifact is not finished, its files fail `check_student_files`, or transformers cannot load it.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        store = Store(str(folder))
        manifest = require_manifest(store, "student", "train RUN")
        check_student_files(store)
        with checked_copy(store, manifest) as path:
            safe = {"local_files_only": True, "trust_remote_code": False}
            try:
                config = AutoConfig.from_pretrained(path, **safe)
                kind = AutoModelForSeq2SeqLM if model_family(config) == "encoder-decoder" else AutoModelForCausalLM
                model, loaded = kind.from_pretrained(
                    path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **safe
                )
                tokenizer = AutoTokenizer.from_pretrained(path, **safe)
            except (OSError, ValueError, SafetensorError) as error:
                raise UserError(store.shown(), f"transformers cannot load it ({error})", "Train it again.") from error
        # transformers fills missing weights with random numbers and only warns.
        if missing := sorted(loaded["missing_keys"]):
            raise UserError(store.shown(), f"its weights lack {', '.join(missing[:3])}", "Train it again.")
        limits = {name: manifest.details[name] for name in ("method", "max_input_tokens", "max_target_tokens")}
        return cls(model, tokenizer, device=device, **limits)

    def count_tokens(self, text: str, part: Part) -> int:
        """Number of input tokens for one part of the answer. Compare it with `max_input_tokens`."""
        return len(encode_prompt(self.tokenizer, self.family, prompt_of(self.method, part, text)))

    def answer(
        self, texts: Sequence[str], part: Part, max_new_tokens: int, *, sampling: Sampling | None = None,
        labels: Sequence[tuple[str, ...]] | None = None, constrained: bool = False, max_label_tokens: int | None = None,
    ) -> list[Decoded]:  # fmt: skip
        """Generate one part of the answer to each text, in one padded batch. Texts are not truncated: see `count_tokens`.

        Args:
            max_new_tokens: limit for a label or a rationale. A text of both may reach `max_target_tokens`. For a rationale that follows
                its label it is the limit for both.
            sampling: None: greedy.
            labels: closed label set of each text, from methods.written_labels.
            constrained: True: an answer with a label set is one of its labels.
            max_label_tokens: limit for a label that the rationale follows. None: `max_new_tokens`.

        Raises:
            ValueError: the method does not train this part.
        """
        sets = [()] * len(texts) if labels is None else labels
        method = METHODS[self.method]
        follows = part == "rationale" and method.continues
        first, limit = (method.answer, max_label_tokens or max_new_tokens) if follows else (part, max_new_tokens)
        requests = [
            self.request(text, first, limit, sampling, some, constrained=constrained)
            for text, some in zip(texts, sets, strict=True)
        ]
        outputs = self.write(requests)
        if follows:
            pairs = zip(requests, outputs, strict=True)
            requests = [after_label(request, label, self.eos, max_new_tokens) for request, label in pairs]
            outputs = self.write(requests)
        return [decoded(part, *pair, self.tokenizer) for pair in zip(requests, outputs, strict=True)]

    def request(
        self, text: str, part: Part, max_new_tokens: int, sampling: Sampling | None = None,
        labels: tuple[str, ...] = (), *, constrained: bool = False,
    ) -> GenerationRequest:  # fmt: skip
        """Request for one part of the answer to a text. Arguments as in `answer`."""
        if part == "text":
            max_new_tokens = max(max_new_tokens, self.max_target_tokens)
        request = GenerationRequest(prompt_of(self.method, part, text), max_new_tokens, sampling)
        return request.with_labels(self._label_set(part, labels), constrained=constrained)

    def write(
        self,
        requests: Sequence[GenerationRequest],
        on_tokens: OnTokens | None = None,
        is_cancelled: IsCancelled | None = None,
        on_output: Callable[[int, GenerationOutput], None] | None = None,
    ) -> list[GenerationOutput]:
        """Generate a text for each request, in one padded batch.

        Args:
            on_tokens: receives the tokens of all rows after each step, for constrained rows those of the free answer.
            is_cancelled: ends rows early.
            on_output: receives the output of a row without label set when it ends, before the batch ends.
        """
        if not requests:
            return []
        prompts = [request.encoded(self.tokenizer, self.family) for request in requests]

        def on_end(row: int, tokens: list[int], log_probs: list[float]) -> None:
            if on_output is not None and requests[row].labels is None:
                on_output(row, self._output(requests[row], prompts[row], tokens, log_probs, None))

        tokens, log_probs, scores = self._generate(prompts, requests, on_tokens, is_cancelled, on_output and on_end)
        outputs = [self._output(*row) for row in zip(requests, prompts, tokens, log_probs, scores, strict=True)]
        walks = {
            row: walk
            for row, request in enumerate(requests)
            if self.returns_scores
            and (is_cancelled is None or not is_cancelled(row))
            and (walk := label_walk(request, outputs[row], scores[row], self.tokenizer))
        }
        self._finish(list(walks.values()))
        return [walks[row].output(output) if row in walks else output for row, output in enumerate(outputs)]

    def _finish(self, walks: list[LabelWalk]) -> None:
        """Walk to the end, all walks of equal length in one batch per step."""
        while unfinished := [walk for walk in walks if walk.choices]:
            length = min(len(walk.written) for walk in unfinished)
            step = [walk for walk in unfinished if len(walk.written) == length]
            for walk, scores in zip(step, self._next_scores([walk.next_request for walk in step]), strict=True):
                walk.take(scores)

    def _next_scores(self, requests: Sequence[GenerationRequest]) -> list[Sequence[float]]:
        """Scores of the watched tokens of each request, for one step. All have equally many tokens in `written`."""
        prompts = [request.encoded(self.tokenizer, self.family) for request in requests]
        _, _, scores = self._generate(prompts, requests, None, None)
        return [row(0) for row in scores if row is not None]

    def _output(
        self,
        request: GenerationRequest,
        prompt: list[int],
        tokens: list[int],
        log_probs: list[float],
        scores: Scores | None,
    ) -> GenerationOutput:
        tokens = tokens[: request.max_new_tokens]
        ended = self.eos in tokens
        length = tokens.index(self.eos) + 1 if ended else len(tokens)
        return GenerationOutput(
            ids=tuple(tokens[:length]),
            log_probs=tuple(log_probs[:length]),
            prompt_tokens=len(prompt),
            finish_reason="stop" if ended else "length",
            label_log_prob=request.labels.log_prob(tokens[:length], scores) if request.labels and scores else None,
        )

    def _generate(
        self,
        prompts: list[list[int]],
        requests: Sequence[GenerationRequest],
        on_tokens: OnTokens | None,
        is_cancelled: IsCancelled | None,
        on_end: OnEnd | None = None,
    ) -> tuple[list[list[int]], list[list[float]], list[Scores | None]]:
        """Tokens, their log-probabilities and the scores of the watched tokens, for each row. Values after a row's end are meaningless.

        Scores are None if the engine cannot return those of all watched tokens.
        """
        if self.family == "decoder-only":
            prompts = [[*prompt, *request.written] for prompt, request in zip(prompts, requests, strict=True)]
            return self._generate_batch(prompts, requests, on_tokens, is_cancelled, on_end)
        found: list[Any] = [None] * len(requests)
        # The decoder takes no padding: a batch has rows with equally many written tokens.
        for length in sorted({len(request.written) for request in requests}):
            rows = [row for row, request in enumerate(requests) if len(request.written) == length]
            batch = self._generate_batch(
                [prompts[row] for row in rows],
                [requests[row] for row in rows],
                on_tokens and _for_rows(on_tokens, rows, len(requests)),
                is_cancelled and _of_rows(is_cancelled, rows),
                on_end and _end_of_rows(on_end, rows),
            )
            for row, *values in zip(rows, *batch, strict=True):
                found[row] = values
        tokens, log_probs, scores = zip(*found, strict=True)
        return list(tokens), list(log_probs), list(scores)

    def _generate_batch(
        self,
        prompts: list[list[int]],
        requests: Sequence[GenerationRequest],
        on_tokens: OnTokens | None,
        is_cancelled: IsCancelled | None,
        on_end: OnEnd | None = None,
    ) -> tuple[list[list[int]], list[list[float]], list[Scores | None]]:
        """Values as of `_generate`, in one call of transformers. The prompts of a decoder-only model hold what is written."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        written: dict[str, Any] = {}
        if self.family == "encoder-decoder" and requests[0].written:
            start = self.model.config.decoder_start_token_id
            rows = [[start, *request.written] for request in requests]
            written["decoder_input_ids"] = torch.tensor(rows, device=self.device)
        ids, mask = self._pad_batch(prompts)
        sampler = Sampler(requests, self.eos, on_tokens, is_cancelled, on_end)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._greedy(max(request.max_new_tokens for request in requests)),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([sampler.ended]),
                **written,
            )
        # The output of a decoder-only model begins with the prompt, that of an encoder-decoder model with its start token.
        tokens = output[:, output.shape[1] - len(sampler.log_probs) :].tolist()
        return tokens, torch.stack(sampler.log_probs, dim=1).tolist(), [*sampler.scores()]

    def _pad_batch(self, prompts: list[list[int]]) -> tuple[Any, Any]:
        """Ids and mask (1 = token, 0 = padding), each (batch, longest). Decoder-only: left padding."""
        import torch

        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            start = 0 if self.family == "encoder-decoder" else longest - len(prompt)
            ids[row, start : start + len(prompt)] = torch.tensor(prompt)
            mask[row, start : start + len(prompt)] = 1
        return ids.to(self.device), mask.to(self.device)

    def _greedy(self, max_new_tokens: int) -> Any:
        """Greedy generation config. The model's own (sampling, penalties) would change the answers."""
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
        # generate() takes unset values of the passed config from the model's own config.
        self.model.generation_config = config
        return config


def _for_rows(on_tokens: OnTokens, rows: list[int], count: int) -> OnTokens:
    """Reports the tokens of some of `count` rows."""

    def report(tokens: list[int | None]) -> None:
        every: list[int | None] = [None] * count
        for row, token in zip(rows, tokens, strict=True):
            every[row] = token
        on_tokens(every)

    return report


def _of_rows(is_cancelled: IsCancelled, rows: list[int]) -> IsCancelled:
    return lambda row: is_cancelled(rows[row])


def _end_of_rows(on_end: OnEnd, rows: list[int]) -> OnEnd:
    return lambda row, tokens, log_probs: on_end(rows[row], tokens, log_probs)
