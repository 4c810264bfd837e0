"""An encoder-decoder student in CTranslate2, on CPUs: the same weights in a runtime made for decoding. `int8` is smaller, faster and lossy.

The conversion is made once and kept beside the student, for the next process:

    OUTPUT/student/                 the student
    OUTPUT/student-ctranslate2/     model.bin config.json shared_vocabulary.json converted.json (written last; names the student)
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pipelines.errors import UserError
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.decoding.checks import check_student_files
from pipelines.students.decoding.label_scores import Scores
from pipelines.students.decoding.requests import GenerationRequest
from pipelines.students.decoding.sampling import Gone, OnTokens
from pipelines.students.decoding.transformers_student import Student, student_limits

_MARK = "converted.json"
_PROBES = (
    "[label] Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?",
    "[rationale] premise: A person on a horse jumps over a broken down airplane. hypothesis: A person is outdoors.",
    "Where would you find a train? (a) station (b) river",
)
_TOLERANCE = 0.02
"""In log-probability; float32 in another order of sums stays below 0.001."""
_LOGITS_BYTES = 512 * 2**20
"""Of one call, if all its rows become as long as they may."""
_logger = logging.getLogger(__name__)


class Ctranslate2Student(Student):
    """Greedy answers are those of the student in float32, up to rounding. Drawn ones have the same distribution, but follow no seed."""

    def __init__(self, translator: Any, tokenizer: Any, *, lanes: int = 1, **limits: Any) -> None:
        self._translator = translator
        self.lanes = lanes
        self._set(tokenizer, family="encoder-decoder", **limits)

    @classmethod
    def open(cls, folder: str | Path, *, weights: str = "float32", threads: int = 1, lanes: int = 1) -> Self:
        """The student of a finished student folder or URI.

        Args:
            weights: float32 or int8.
            threads: that compute.
            lanes: callers that will write at the same time; each is computed by its share of the threads.

        Raises:
            UserError: there is no finished student, it may not be opened, CTranslate2 does not know its architecture, or converted it
                answers otherwise.
        """
        store = Store(str(folder))
        manifest = require_manifest(store, "student", "train RUN")
        if manifest.details["family"] != "encoder-decoder":
            raise _refused(store.shown(), "only encoder-decoder students are converted")
        check_student_files(store)
        limits = {"lanes": lanes, **student_limits(manifest)}
        mark = _mark(manifest.fingerprint)
        beside = Store(f"{store.uri.rstrip('/')}-ctranslate2")
        with store.local_copy() as path:
            if beside.exists(_MARK) and json.loads(beside.read(_MARK)) == mark:
                with beside.local_copy() as model:
                    return cls(*_load(path, model, weights, threads), **limits)
            with tempfile.TemporaryDirectory(prefix="raystill-") as scratch:
                model = Path(scratch) / "model"
                _convert(path, model, store.shown())
                _check(cls(*_load(path, model, "float32", threads), **limits), Student.load(folder), store.shown())
                try:
                    # The old mark goes first: one process must not take half of these files for those of the other student.
                    beside.delete(_MARK)
                    beside.put_folder(model)
                    beside.write(_MARK, json.dumps(mark).encode())
                except (OSError, UserError) as error:  # a folder that may only be read serves as well
                    _logger.warning("%s: the conversion is not kept (%s)", beside.shown(), error)
                return cls(*_load(path, model, weights, threads), **limits)

    def _generate(
        self,
        prompts: list[list[int]],
        orders: Sequence[GenerationRequest],
        on_tokens: OnTokens | None,
        gone: Gone | None,
    ) -> tuple[list[list[int]], list[list[float]], list[Scores]]:
        tokens: list[list[int]] = [[] for _ in orders]
        log_probs: list[list[float]] = [[] for _ in orders]
        scores: list[Scores] = [_no_scores] * len(orders)
        for rows in self._calls(orders):
            steps = _Steps(rows, tokens, log_probs, [order.max_new_tokens for order in orders], on_tokens, gone)
            results = self._translate([prompts[row] for row in rows], [orders[row] for row in rows], steps)
            for row, result in zip(rows, results, strict=True):
                if watched := orders[row].watched:
                    scores[row] = _scores_of(result, watched)
        return tokens, log_probs, scores

    def _calls(self, orders: Sequence[GenerationRequest]) -> Iterator[list[int]]:
        """The rows of each call. The translator keeps all logits of a call whose orders have a closed set, 128 kB for each token of T5."""
        for rows in _alike(orders):
            most = len(rows)
            if orders[rows[0]].watched:
                longest = max(orders[row].max_new_tokens for row in rows)
                most = max(1, _LOGITS_BYTES // (4 * len(self.tokenizer) * longest))
            yield from (rows[start : start + most] for start in range(0, len(rows), most))

    def _translate(self, prompts: list[list[int]], orders: list[GenerationRequest], steps: _Steps) -> list[Any]:
        options: dict[str, Any] = {"return_logits_vocab": bool(orders[0].watched)}
        if sampling := orders[0].sampling:
            chances = {"sampling_topp": sampling.top_p, "sampling_temperature": sampling.temperature}
            options |= {"sampling_topk": 0, **chances}
        results: list[Any] = self._translator.translate_batch(
            [self.tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts],
            # Each thread computes a batch of its own: threads within one wait for each other at every layer, most of all on a busy machine.
            max_batch_size=math.ceil(len(prompts) * self.lanes / self._translator.num_translators),
            beam_size=1,
            max_input_length=0,
            max_decoding_length=max(order.max_new_tokens for order in orders),
            min_decoding_length=0,
            return_end_token=True,
            return_scores=True,
            callback=steps,
            **options,
        )
        return results


def _alike(orders: Sequence[GenerationRequest]) -> list[list[int]]:
    """The rows of orders that one call can write: those drawn with the same temperature and top_p, and the greedy ones; of a closed label
    set or not."""
    found: dict[tuple[float, float, bool], list[int]] = {}
    for row, order in enumerate(orders):
        sampling = order.sampling
        chances = (sampling.temperature, sampling.top_p) if sampling else (0.0, 1.0)
        found.setdefault((*chances, bool(order.watched)), []).append(row)
    return list(found.values())


def _scores_of(result: Any, watched: tuple[int, ...]) -> Scores:
    """Of a row of a call that has kept its logits."""
    import numpy as np

    (logits,) = result.logits
    return lambda step: np.array(logits[step])[list(watched)].tolist()


def _no_scores(step: int) -> Sequence[float]:
    return ()


class _Steps:
    """Notes each token of some rows as the translator chooses it."""

    def __init__(
        self, rows: list[int], tokens: list[list[int]], log_probs: list[list[float]], longest: list[int],
        on_tokens: OnTokens | None, gone: Gone | None,
    ) -> None:  # fmt: skip
        self._rows, self._tokens, self._log_probs, self._longest = rows, tokens, log_probs, longest
        self._on_tokens, self._gone = on_tokens, gone

    def __call__(self, step: Any) -> bool:
        """Whether the row ends here: with the length of its own order, not with that of its batch, or since nobody waits for it."""
        row = self._rows[step.batch_id]
        if len(self._tokens[row]) < self._longest[row]:
            self._tokens[row].append(step.token_id)
            self._log_probs[row].append(step.log_prob)
            if self._on_tokens is not None:
                told: list[int | None] = [None] * len(self._tokens)
                told[row] = step.token_id
                self._on_tokens(told)
        return len(self._tokens[row]) >= self._longest[row] or (self._gone is not None and self._gone(row))


def _load(student: Path, model: Path, weights: str, threads: int) -> tuple[Any, Any]:
    """Translator and tokenizer."""
    import ctranslate2
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    options = {"device": "cpu", "compute_type": weights, "inter_threads": threads, "intra_threads": 1}
    return ctranslate2.Translator(str(model), **options), tokenizer


def _mark(fingerprint: str) -> dict[str, str]:
    import ctranslate2

    return {"student": fingerprint, "ctranslate2": ctranslate2.__version__}


def _convert(local: Path, model: Path, shown: str) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            loaded = super().load_model(*args, **kwargs)
            # transformers 5 ties the embeddings of every T5, and says elsewhere whether its outputs are scaled as those of a tied one.
            config = loaded.config
            scaled = config.model_type != "mt5" and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
            config.tie_word_embeddings = scaled
            return loaded

    try:
        Converter(str(local), trust_remote_code=False).convert(str(model))
    except (ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise _refused(shown, f"CTranslate2 cannot convert it ({error})") from error
    # A byte-level tokenizer has no token for the unknown; CTranslate2 wants a name for it, which it never needs.
    file = model / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    named = {key: value or config["eos_token"] for key, value in config.items() if key.endswith("_token")}
    file.write_text(json.dumps({**config, **named}), encoding="utf-8")


def _check(converted: Student, original: Student, shown: str) -> None:
    """The conversion keeps the weights' accuracy, or it is not used. Raises UserError."""
    orders = [GenerationRequest(text, 8) for text in _PROBES]
    for one, other in zip(converted.write(orders), original.write(orders), strict=True):
        same = [a == b for a, b in zip(one.ids, other.ids, strict=False)]
        alike = same.index(False) if False in same else len(same)
        apart = [abs(a - b) for a, b in zip(one.log_probs[:alike], other.log_probs[:alike], strict=True)]
        if not alike or max(apart) > _TOLERANCE:
            raise _refused(shown, f"converted by CTranslate2 it answers otherwise (log-probabilities {apart} apart)")


def _refused(shown: str, rule: str) -> UserError:
    return UserError(shown, rule, "Set serving.engine: transformers.")
