"""The stages in sequence: label, train, evaluate. The only module that calls several of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pipelines.config import RunConfig
from pipelines.storage.manifest import Manifest

Stage = Literal["label", "train", "evaluate"]
STAGES: tuple[Stage, ...] = ("label", "train", "evaluate")


def run_stage(run: RunConfig, stage: Stage, *, replace: bool = False) -> Manifest:
    """Make one stage's artifact, or reuse it. Ray is running."""
    if stage == "label":
        from pipelines.label.stage import label

        return label(run, replace=replace)
    if stage == "train":
        from pipelines.train.stage import train

        return train(run, replace=replace)
    from pipelines.evaluate.stage import evaluate

    return evaluate(run, replace=replace)


def run_stages(
    run: RunConfig,
    stages: tuple[Stage, ...] = STAGES,
    *,
    replace: bool = False,
    on_finish: Callable[[Stage, Manifest, float], None] = lambda stage, manifest, seconds: None,
) -> list[Manifest]:
    """Make the artifacts of several stages, in the order of the chain. `on_finish` hears of each with the seconds it took."""
    manifests = []
    for stage in stages:
        began = time.monotonic()
        manifest = run_stage(run, stage, replace=replace)
        on_finish(stage, manifest, time.monotonic() - began)
        manifests.append(manifest)
    return manifests
