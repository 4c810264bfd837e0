"""Output folders with labels, a tiny model and its tokens: where the tests of engines and of the stage begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from pipelines.train.data.tokenise import tokenise
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

FAMILIES = ("decoder-only", "encoder-decoder")


def make_outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each family an output folder with labels, a tiny model in `model`, and tokens in `tokens`."""
    found = {}
    for family in FAMILIES:
        output = tmp_path_factory.mktemp(family)
        write_labels(output, label_rows(60))
        make_model(family, output / "model")
        tokens_of(output)
        found[family] = output
    return found


def run_of(output: Path, **training: Any) -> Any:
    """The run of the folder's model."""
    return make_run(output, str(output / "model"), training=training)


def tokens_of(output: Path) -> Tokens:
    """The folder's tokens, made where they are not there yet."""
    from pipelines.train.checks import token_settings

    store = Store(str(output / "tokens"))
    tokenise(Store(str(output / "labels")), token_settings(run_of(output)), store)
    return Tokens(store, output)
