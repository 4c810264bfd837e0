"""KubeRay's CRDs and a real server's verdicts: a folder that RAYSTILL_KUBERAY_CRDS names; they are not shipped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.checker.crds import Crds, load_crds


@pytest.fixture(scope="session")
def crd_folder() -> Path:
    """The folder. Unset: the test is skipped; set but wrong: it fails."""
    root = os.environ.get("RAYSTILL_KUBERAY_CRDS")
    if not root:
        pytest.skip(
            "RAYSTILL_KUBERAY_CRDS is not set: it names a folder with KubeRay's CRDs (ray.io_*.yaml) and oracle-verdicts.json"
        )
    folder = Path(root)
    assert (folder / "oracle-verdicts.json").is_file(), (
        f"RAYSTILL_KUBERAY_CRDS={root}: there is no oracle-verdicts.json"
    )
    return folder


@pytest.fixture(scope="session")
def crds(crd_folder: Path) -> Crds:
    """KubeRay's kinds."""
    return load_crds(crd_folder)


@pytest.fixture(scope="session")
def verdicts_recorded(crd_folder: Path) -> list[dict[str, Any]]:
    """Objects with what a real API server, the operator and Pod validation said: name, object, apiserver, operator, pods."""
    cases: list[dict[str, Any]] = json.loads((crd_folder / "oracle-verdicts.json").read_text(encoding="utf-8"))["cases"]
    return cases
