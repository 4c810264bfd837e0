"""What Prometheus sees of labelling. Exported by Ray, on the metrics port of the node on which the command runs.

| metric                           | kind    | labels         |                                                                    |
| raystill_label_rows              | counter | run, outcome   | rows that the teacher was asked: `accepted`, or a reject's reason  |
| raystill_label_rows_left         | gauge   | run            | rows without one; 0 when the stage has ended                       |
| raystill_label_tokens            | counter | run, direction | of the teacher: read (in) and written (out)                        |
| raystill_label_engine_seconds    | counter | run, state     | of all engines together: `starting`, `busy`, `idle`                |
| raystill_label_engine_deaths     | counter | run            |                                                                    |
| raystill_gpu_seconds             | counter | run, stage     | GPUs held by engines x seconds; the training counts its own        |

The rate of raystill_label_engine_seconds is the number of engines. Held-out rows count too. All of it is counted anyhow: the driver tells
its sums when it has committed rows, and does nothing for a row. The manifest has the exact figures.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipelines.label.engines.health import Usage
from pipelines.label.output.counts import Counts

_Key = tuple[str, str]
"""(what is counted, its label)."""


class LabelMetrics:
    """Of one run, in the driver. Sums that it is told count from the first ones on."""

    def __init__(self, run: str, gpus_per_replica: int, before: Counts) -> None:
        """`before`: what earlier runs of the stage had done, which they have told of themselves."""
        self._run, self._gpus = {"run": run}, gpus_per_replica
        self._rows = Counter("raystill_label_rows", "Rows by outcome.", ("run", "outcome"))
        self._left = Gauge("raystill_label_rows_left", "Rows without an outcome.", ("run",))
        self._tokens = Counter("raystill_label_tokens", "Tokens of the teacher.", ("run", "direction"))
        self._engines = Counter("raystill_label_engine_seconds", "Seconds of engines by state.", ("run", "state"))
        self._deaths = Counter("raystill_label_engine_deaths", "Engines that died.", ("run",))
        self._gpu = Counter("raystill_gpu_seconds", "GPUs held x seconds.", ("run", "stage"))
        self._told: dict[_Key, float] = dict(_sums(before))
        self._rows_left: int | None = None
        self._lock = threading.Lock()  # the thread of the progress file tells of the engines

    def rows(self, tally: Counts, total: int) -> None:
        """Where the rows stand: `tally` of all that have an outcome, of `total`."""
        for (kind, name), increase in self._increases(_sums(tally)).items():
            if kind == "rows":
                self._rows.inc(increase, {**self._run, "outcome": name})
            else:
                self._tokens.inc(increase, {**self._run, "direction": name})
        self._rows_left = total - tally.done
        self._left.set(self._rows_left, self._run)

    def engines(self, usage: Usage) -> None:
        """What the engines of this run have done so far. To be called every few seconds, also while nothing is committed."""
        if self._rows_left is not None:
            # Ray forgets a gauge that it was not told for two of its intervals, 20 s.
            self._left.set(self._rows_left, self._run)
        seconds = {
            ("engines", "starting"): usage.start_s,
            ("engines", "busy"): usage.busy_s,
            ("engines", "idle"): usage.up_s - usage.busy_s,
        }
        for (_, state), increase in self._increases(seconds).items():
            self._engines.inc(increase, {**self._run, "state": state})
            if self._gpus:
                self._gpu.inc(increase * self._gpus, {**self._run, "stage": "label"})
        for increase in self._increases({("deaths", ""): usage.deaths}).values():
            self._deaths.inc(increase, self._run)

    def _increases(self, sums: Mapping[_Key, float]) -> dict[_Key, float]:
        """By how much each sum is above what was told. One may sink for a while: `engine_error` rows that were answered in the end."""
        with self._lock:
            told = self._told
            increases = {key: value - told.get(key, 0) for key, value in sums.items() if value > told.get(key, 0)}
            told.update((key, sums[key]) for key in increases)
        return increases


def _sums(tally: Counts) -> dict[_Key, int]:
    rejected = tally.rejected + tally.heldout_rejected
    return {
        **{("rows", reason): count for reason, count in rejected.items()},
        ("rows", "accepted"): tally.accepted + tally.heldout_answered,
        ("tokens", "in"): tally.prompt_tokens,
        ("tokens", "out"): tally.output_tokens,
    }
