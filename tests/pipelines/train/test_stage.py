"""What the train stage says when a training breaks off."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.artifacts import Store
from pipelines.errors import UserError
from pipelines.train.checks import check_counts, token_settings
from pipelines.train.stage import _how_to_go_on
from pipelines.train.tokens import TokenCounts
from tests.pipelines.train.tiny import make_model, make_run

OUTPUT = "s3://KEY:SECRET@bucket/run?region=eu-west-1"


def test_no_message_holds_credentials(tmp_path: Path) -> None:
    said = _how_to_go_on(Store(OUTPUT).child("training/ab"))
    assert said.endswith("it lies in s3://bucket/run/training/ab?region=eu-west-1.")
    run = make_run(tmp_path, make_model("decoder-only", tmp_path / "model"))
    nothing = TokenCounts(**dict.fromkeys(TokenCounts.__dataclass_fields__, 0))
    with pytest.raises(UserError, match=r"s3://bucket/run/labels\?region=eu-west-1: no example is left") as refused:
        check_counts(nothing, run.model_copy(update={"output": OUTPUT}), token_settings(run))
    assert "SECRET" not in str(refused.value)
