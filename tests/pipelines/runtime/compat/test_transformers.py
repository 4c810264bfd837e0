from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.runtime.compat.transformers import layer_classes
from tests.support.tiny_runs import make_model

pytest.importorskip("transformers")


@pytest.mark.parametrize(("family", "layer"), [("decoder-only", "LlamaDecoderLayer"), ("encoder-decoder", "T5Block")])
def test_the_repeated_layers_of_a_model_are_known(family: str, layer: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config: Any = AutoConfig.from_pretrained(make_model(family, tmp_path))
    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    assert layer in layer_classes(kind.from_config(config))
    assert layer_classes(SimpleNamespace(_no_split_modules=None)) == frozenset()  # type: ignore[arg-type]
