"""KubeRay's CRDs and recorded verdicts of real servers, in the folder that RAYSTILL_KUBERAY_CRDS names. They are not shipped."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def crds() -> Path:
    """The folder. Without the variable the test is skipped; with a wrong one it fails."""
    root = os.environ.get("RAYSTILL_KUBERAY_CRDS")
    if not root:
        pytest.skip("RAYSTILL_KUBERAY_CRDS is not set. Set it to a folder with ray.io_*.yaml and oracle-verdicts.json.")
    folder = Path(root)
    assert (folder / "oracle-verdicts.json").is_file(), f"RAYSTILL_KUBERAY_CRDS={root}: no oracle-verdicts.json"
    return folder
