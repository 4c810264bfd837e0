"""Encoder-decoder students in CTranslate2, on CPUs. `int8` weights are smaller, faster and lossy.

The first process converts the student and stores the conversion beside it:

    OUTPUT/student/                 the student
    OUTPUT/student-ctranslate2/     model.bin config.json shared_vocabulary.json converted.json (written last; names the student's content)
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pipelines.errors import UserError
from pipelines.storage.fingerprint import FileHash
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.content import (
    CONVERTED,
    check_content,
    checked_copy,
    content_id,
    hash_files,
    student_files,
)
from pipelines.students.decoding.checks import check_student_files
from pipelines.students.decoding.label_scores import Scores
from pipelines.students.decoding.requests import GenerationRequest
from pipelines.students.decoding.sampling import IsCancelled, OnEnd, OnTokens
from pipelines.students.decoding.transformers_student import Student

_PROBES = (
    "[label] Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?",
    "[rationale] premise: A person on a horse jumps over a broken down airplane. hypothesis: A person is outdoors.",
    "Where would you find a train? (a) station (b) river",
)
_TOLERANCE = 0.02
"""Largest difference in log-probability. Another order of summation in float32 stays below 0.001."""
_LOGITS_BYTES = 512 * 2**20
"""Memory limit for the logits of one call, if all its rows reach their length."""
_logger = logging.getLogger(__name__)


class ConversionError(UserError):
    """CTranslate2 cannot run the student, or answers differently."""


class Ctranslate2Student(Student):
    """Greedy answers equal those of the student in float32, up to rounding. Drawn answers have its distribution but follow no seed."""

    engine = "ctranslate2"

    def __init__(
        self, translator: Any, tokenizer: Any, details: Mapping[str, Any], *, weights: str, workers: int
    ) -> None:
        self._translator = translator
        self.workers = workers
        self.weights = weights
        self._configure(tokenizer, "encoder-decoder", details)

    @classmethod
    def open(cls, folder: str | Path, *, weights: str = "float32", threads: int = 1, workers: int = 1) -> Self:
        """Open a student from the folder or URI of its artifact; convert it first if necessary.

        Args:
            weights: float32 or int8.
            threads: number of computing threads.
            workers: number of concurrent callers of `write`, which share the threads evenly.

        Raises:
            ConversionError: CTranslate2 does not support its architecture, or the conversion answers differently.
            UserError: the artifact is not finished, or its files fail `check_student_files`.
        """
        store = Store(str(folder))
        manifest = require_manifest(store, "student", "train RUN")
        if manifest.details["family"] != "encoder-decoder":
            raise _refused(store.shown(), "must be an encoder-decoder student for CTranslate2")
        check_student_files(store)
        mark = _mark(content_id(student_files(store, manifest)))
        beside = Store(f"{store.uri.rstrip('/')}-ctranslate2")
        with checked_copy(store, manifest) as path:
            if beside.exists(CONVERTED):
                with beside.local_copy() as model:
                    if _is_conversion(model, mark):
                        return cls(
                            *_load(path, model, weights, threads), manifest.details, weights=weights, workers=workers
                        )
            with tempfile.TemporaryDirectory(prefix="raystill-") as scratch:
                model = Path(scratch) / "model"
                _convert(path, model, store.shown())
                converted = cls(
                    *_load(path, model, "float32", threads), manifest.details, weights="float32", workers=workers
                )
                _compare(converted, Student.load(path), store.shown())
                del converted  # not in memory beside the one that is returned
                try:
                    # The old mark goes first, so that no process opens a mix of two conversions.
                    beside.delete(CONVERTED)
                    beside.put_folder(model)
                    files = {name: file.model_dump() for name, file in hash_files(Store(str(model))).items()}
                    beside.write(CONVERTED, json.dumps({**mark, "files": files}).encode())
                except (OSError, UserError) as error:  # a read-only folder is no obstacle
                    _logger.warning("%s: the conversion cannot be stored (%s)", beside.shown(), error)
                return cls(*_load(path, model, weights, threads), manifest.details, weights=weights, workers=workers)

    def _generate(
        self,
        prompts: list[list[int]],
        requests: Sequence[GenerationRequest],
        on_tokens: OnTokens | None,
        is_cancelled: IsCancelled | None,
        on_end: OnEnd | None = None,
    ) -> tuple[list[list[int]], list[list[float]], list[Scores | None]]:
        tokens: list[list[int]] = [[] for _ in requests]
        log_probs: list[list[float]] = [[] for _ in requests]
        scores: list[Scores | None] = [_no_scores] * len(requests)
        limits = [request.max_new_tokens for request in requests]
        written = [len(request.written) for request in requests]
        for rows in self._calls(requests):
            recorder = _StepRecorder(rows, tokens, log_probs, limits, written, on_tokens, is_cancelled, on_end)
            some = [requests[row] for row in rows]
            try:
                results = self._translate(
                    [prompts[row] for row in rows], some, recorder, target_prefix=self._prefixes(some),
                    max_decoding_length=max(limits[row] + written[row] for row in rows),
                    return_logits_vocab=bool(some[0].watched),
                )  # fmt: skip
            finally:
                recorder.release()
            for row, result in zip(rows, results, strict=True):
                if watched := requests[row].watched:
                    scores[row] = _scores_of(result, watched)
        return tokens, log_probs, scores

    def _next_scores(self, requests: Sequence[GenerationRequest]) -> list[Sequence[float]]:
        length = len(requests[0].written)
        # The logits of the written tokens are kept, too.
        size = max(1, _LOGITS_BYTES // (4 * len(self.tokenizer) * (length + 1)))
        found: list[Sequence[float]] = []
        for start in range(0, len(requests), size):
            rows = requests[start : start + size]
            prompts = [row.encoded(self.tokenizer, self.family) for row in rows]
            results = self._translate(
                prompts,
                rows,
                None,
                target_prefix=self._prefixes(rows),
                max_decoding_length=length + 1,
                return_logits_vocab=True,
            )
            found += [_scores_of(result, row.watched)(length) for result, row in zip(results, rows, strict=True)]
        return found

    def _prefixes(self, requests: Sequence[GenerationRequest]) -> list[list[str]] | None:
        if not any(request.written for request in requests):
            return None
        return [self.tokenizer.convert_ids_to_tokens(request.written) for request in requests]

    def _calls(self, requests: Sequence[GenerationRequest]) -> Iterator[list[int]]:
        """Rows of each call. With label sets the translator keeps all logits of a call, 128 kB per token for T5."""
        for rows in _compatible_rows(requests):
            size = len(rows)
            if requests[rows[0]].watched:
                longest = max(requests[row].max_new_tokens for row in rows)
                size = max(1, _LOGITS_BYTES // (4 * len(self.tokenizer) * longest))
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _translate(
        self,
        prompts: list[list[int]],
        requests: Sequence[GenerationRequest],
        recorder: _StepRecorder | None,
        **options: Any,
    ) -> list[Any]:
        if sampling := requests[0].sampling:
            options |= {
                "sampling_topk": 0,
                "sampling_topp": sampling.top_p,
                "sampling_temperature": sampling.temperature,
            }
        results: list[Any] = self._translator.translate_batch(
            [self.tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts],
            # One batch per thread: threads of one batch wait for each other at every layer, which costs most on a busy machine.
            max_batch_size=math.ceil(len(prompts) * self.workers / self._translator.num_translators),
            beam_size=1,
            max_input_length=0,
            min_decoding_length=0,
            return_end_token=True,
            return_scores=True,
            callback=recorder,
            **options,
        )
        return results


def _compatible_rows(requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """Group rows that one call can generate: equal temperature and top_p (or greedy), all with or all without a label set."""
    groups: dict[tuple[float, float, bool], list[int]] = {}
    for row, request in enumerate(requests):
        sampling = request.sampling
        settings = (sampling.temperature, sampling.top_p) if sampling else (0.0, 1.0)
        groups.setdefault((*settings, bool(request.watched)), []).append(row)
    return list(groups.values())


def _scores_of(result: Any, watched: tuple[int, ...]) -> Scores:
    """Scores of a row from a call that kept its logits."""
    import numpy as np

    (logits,) = result.logits
    return lambda step: np.array(logits[step])[list(watched)].tolist()


def _no_scores(step: int) -> Sequence[float]:
    return ()


class _StepRecorder:
    """Callback of the translator: records each token and ends rows."""

    def __init__(
        self,
        rows: list[int],
        tokens: list[list[int]],
        log_probs: list[list[float]],
        limits: list[int],
        written: list[int],
        on_tokens: OnTokens | None,
        is_cancelled: IsCancelled | None,
        on_end: OnEnd | None,
    ) -> None:
        self._rows, self._tokens, self._log_probs = rows, tokens, log_probs
        self._limits, self._written = limits, written
        self._on_tokens, self._is_cancelled, self._on_end = on_tokens, is_cancelled, on_end

    def __call__(self, step: Any) -> bool:
        """True ends the row: it has reached its own limit, which may be lower than that of its batch, or is cancelled."""
        row = self._rows[step.batch_id]
        if step.step < self._written[row]:  # the translator reports what is written, too
            return False
        if len(self._tokens[row]) < self._limits[row]:
            self._tokens[row].append(step.token_id)
            self._log_probs[row].append(step.log_prob)
            if self._on_tokens is not None:
                new: list[int | None] = [None] * len(self._tokens)
                new[row] = step.token_id
                self._on_tokens(new)
        reached = len(self._tokens[row]) >= self._limits[row]
        if self._on_end is not None and (reached or step.is_last):
            self._on_end(row, self._tokens[row], self._log_probs[row])
        return reached or (self._is_cancelled is not None and self._is_cancelled(row))

    def release(self) -> None:
        """Drop the callbacks, whose closures hold the student.

        The translator's threads keep this object for a moment after a call. If one of them dropped the student last, the translator would
        be destroyed in its own thread, which ends the process (`std::system_error`, resource deadlock).
        """
        self._on_tokens = self._is_cancelled = self._on_end = None


def _load(student: Path, model: Path, weights: str, threads: int) -> tuple[Any, Any]:
    """Translator and tokenizer."""
    import ctranslate2
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    options = {"device": "cpu", "compute_type": weights, "inter_threads": threads, "intra_threads": 1}
    return ctranslate2.Translator(str(model), **options), tokenizer


def _mark(content: str) -> dict[str, str]:
    import ctranslate2

    return {"student": content, "ctranslate2": ctranslate2.__version__}


def _is_conversion(model: Path, mark: dict[str, str]) -> bool:
    """True if a folder holds the student's conversion, undamaged. Conversions of 0.1 name no hashes: they are made again."""
    try:
        found = json.loads((model / CONVERTED).read_text(encoding="utf-8"))
        files = {name: FileHash.model_validate(file) for name, file in found.pop("files").items()}
        check_content(Store(str(model)), files, str(model))
    except (UserError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return bool(found == mark)


def _convert(local: Path, model: Path, shown: str) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            loaded = super().load_model(*args, **kwargs)
            # transformers 5 ties the embeddings of every T5. Another field records if the outputs are scaled as tied ones are.
            config = loaded.config
            scaled = config.model_type != "mt5" and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
            config.tie_word_embeddings = scaled
            return loaded

    try:
        Converter(str(local), trust_remote_code=False).convert(str(model))
    except (ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise _refused(shown, f"CTranslate2 cannot convert it ({error})") from error
    # CTranslate2 requires the name of an unknown token, which a byte-level tokenizer lacks and never needs.
    file = model / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    named = {key: value or config["eos_token"] for key, value in config.items() if key.endswith("_token")}
    file.write_text(json.dumps({**config, **named}), encoding="utf-8")


def _compare(converted: Student, original: Student, shown: str) -> None:
    """Raise UserError unless the conversion keeps the accuracy of the weights."""
    requests = [GenerationRequest(text, 8) for text in _PROBES]
    for one, other in zip(converted.write(requests), original.write(requests), strict=True):
        equal = [a == b for a, b in zip(one.ids, other.ids, strict=False)]
        length = equal.index(False) if False in equal else len(equal)
        apart = [abs(a - b) for a, b in zip(one.log_probs[:length], other.log_probs[:length], strict=True)]
        if not length or not all(gap <= _TOLERANCE for gap in apart):  # NaN is not within it
            raise _refused(shown, f"its conversion answers differently (log-probabilities {apart} apart)")


def _refused(shown: str, rule: str) -> ConversionError:
    return ConversionError(shown, rule, "Set serving.engine: transformers.")
