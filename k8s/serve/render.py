"""The Serve config of an overlay, from its run file and its list of students: what `raystill serve ... --run RUN --print-config` prints.

    python -m k8s.serve.render prod-gpu       # from the repository's root; without a name: all overlays

In: OVERLAY/endpoint.yaml (students, split, family) and the serving section of OVERLAY/run/run.yaml.
Out: OVERLAY/serve-config.yaml, which the overlay puts into the RayService. tests/k8s/test_serve_config.py fails where it is out of date.

Students are named by where pods find them, which is not here. So each is stood in for by a folder that says of itself what the run file
and endpoint.yaml say, and its place is put in afterwards; the code that makes the config is that of the command. What is not here has no
fingerprint either: the endpoint takes the student that it finds, where the command names the one that it has seen.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.commands.serve import named_split, named_students
from pipelines.config.load import load_run
from pipelines.storage.manifest import manifest_of, write_manifest
from pipelines.storage.store import Store
from serving.deploy.serve_config import as_document, endpoint_config

OVERLAYS = Path(__file__).parents[1] / "overlays"
CONFIG = "serve-config.yaml"
FINGERPRINTS = ("fingerprint", "fingerprints")
_HEADER = "# Made by `python -m k8s.serve.render {name}` from endpoint.yaml and run/run.yaml: change those.\n"


def rendered(overlay: Path) -> str:
    """The text of an overlay's serve-config.yaml.

    Raises:
        UserError: the run file breaks a rule, or such students cannot be served in this way.
    """
    run = load_run(overlay / "run" / "run.yaml")
    endpoint = yaml.safe_load((overlay / "endpoint.yaml").read_text(encoding="utf-8"))
    students = named_students(tuple(endpoint["students"]))
    split = named_split(tuple(endpoint["split"]), students)
    with tempfile.TemporaryDirectory() as scratch:
        stand_ins = {
            student_id: _stand_in(Path(scratch, str(number)), endpoint["family"], run.student.method)
            for number, student_id in enumerate(students)
        }
        config = endpoint_config(stand_ins, run.serving, split, every_node=True)
    places = {stand_ins[student_id]: folder.rstrip("/") for student_id, folder in students.items()}
    text: str = yaml.safe_dump(_placed(as_document(config), places), sort_keys=False)
    return _HEADER.format(name=overlay.name) + text


def overlays() -> list[Path]:
    """The overlays that have an endpoint."""
    return sorted(file.parent for file in OVERLAYS.glob("*/endpoint.yaml"))


def _stand_in(folder: Path, family: str, method: str) -> str:
    """A folder that has a finished student's card and no weights."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        folder.joinpath(name).touch()
    task: dict[str, Any] = {"name": "arithmetic", "version": "1", "options": {}, "source": None}
    limits = {"max_input_tokens": 1, "max_target_tokens": 1}
    details = {"method": method, "family": family, "task": task, "parameters": 0, **limits}
    manifest = manifest_of("student", {}, config={}, counts={}, timings_s={}, details=details, provenance={})
    write_manifest(Store(str(folder)), manifest)
    return str(folder)


def _placed(node: Any, places: Mapping[str, str]) -> Any:
    """The tree with each folder's place instead of its stand-in, and without the stand-ins' fingerprints."""
    if isinstance(node, dict):
        return {key: _placed(value, places) for key, value in node.items() if key not in FINGERPRINTS}
    if isinstance(node, list):
        return [_placed(value, places) for value in node]
    return places.get(node, node) if isinstance(node, str) else node


def main(names: list[str]) -> None:
    """Write the config of the named overlays, or of all."""
    for overlay in [OVERLAYS / name for name in names] or overlays():
        overlay.joinpath(CONFIG).write_text(rendered(overlay), encoding="utf-8")
        print(overlay / CONFIG)


if __name__ == "__main__":
    main(sys.argv[1:])
