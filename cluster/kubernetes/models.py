"""Downloads models into a volume: `python -m cluster.kubernetes.models LIST FOLDER`, which the Job raystill-models runs.

In: LIST, a YAML file of `{name, source, revision, sha256}`; `source` is a hub id, or a URI of a folder in an object store.
Out: FOLDER/NAME for each entry, which appears when it is complete, and one line per model with its checksum.

The checksum is that of `(cd NAME && find * -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum)`. Hidden files do not count.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.config.base import Section
from pipelines.errors import RaystillError, UserError, last_line
from pipelines.storage.store import Store

RECORD = ".raystill-model.json"
"""In a finished folder: the entry that it was made from, with the checksum found. In an unfinished one: its source and revision."""
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What Raystill reads of a hub's repository. Weights are read from safetensors only."""


class Model(Section):
    """One model to download."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    """Folder in the volume: the run file names it as /models/NAME."""
    source: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    """Of a hub id: commit, tag or branch."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Expected checksum. None: any."""


def read_list(text: str, origin: str) -> list[Model]:
    """The models of a list. Raises UserError if an entry breaks a rule, or two have one name."""
    remedy = "Write a list of {name: ..., source: ..., revision: ..., sha256: ...}."
    try:
        models = TypeAdapter(list[Model]).validate_python(yaml.safe_load(text) or [])
    except yaml.YAMLError as error:
        raise UserError(origin, f"it is no YAML ({last_line(error)})", remedy) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(origin, problems, remedy) from error
    names = [model.name for model in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{origin}: {', '.join(twice)}", "two models have this name", "Give each its own name.")
    for model in models:
        if "://" in model.source and model.revision:
            raise UserError(f"{origin}: {model.name}", "a URI has no revision", "Remove `revision`.")
    return models


def download(model: Model, folder: Path) -> str:
    """Make the model's folder, unless it is finished. Returns its checksum.

    Raises:
        UserError: the folder holds another model, the source has no safetensors, or the checksum is not the expected one.
    """
    target, partial = folder / model.name, folder / f".{model.name}.partial"
    if target.exists():
        return _checked(model, target)
    _prepare(partial, model.model_dump_json(include={"source", "revision"}))
    if "://" in model.source:
        _copy(model.source, partial)
    else:
        from huggingface_hub import snapshot_download

        snapshot_download(model.source, revision=model.revision, local_dir=partial, allow_patterns=list(_FILES))
    if not list(partial.rglob("*.safetensors")):
        rule = "it has no *.safetensors, and Raystill reads no other weights"
        raise UserError(
            f"model {model.source}", rule, "Convert it, and name the converted one (k8s/README.md, Models)."
        )
    found = checksum(partial)
    if model.sha256 not in (None, found):
        shutil.rmtree(partial)
        rule = f"its files have the checksum {found}, and {model.sha256} is expected"
        raise UserError(f"model {model.source}", rule, "Pin `revision`, or correct `sha256`.")
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub client's records of the download
    (partial / RECORD).write_text(json.dumps({**model.model_dump(), "sha256": found}), encoding="utf-8")
    partial.rename(target)
    return found


def _prepare(partial: Path, origin: str) -> None:
    """Make the folder of a download that resumes. What another source or revision has left in it is removed."""
    record = partial / RECORD
    if partial.exists() and not (record.exists() and record.read_text(encoding="utf-8") == origin):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    record.write_text(origin, encoding="utf-8")


def checksum(folder: Path) -> str:
    """See the module. Other content, or the same in other files, has another checksum."""
    digest = hashlib.sha256()
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    for name in sorted(path.as_posix() for path in names if not any(part.startswith(".") for part in path.parts)):
        with (folder / name).open("rb") as file:
            digest.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


def _checked(model: Model, target: Path) -> str:
    record = target / RECORD
    made = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    same = made and all(made[key] == value for key, value in model.model_dump().items() if value is not None)
    if not same:
        rule = (
            f"it holds another model ({made.get('source', 'copied by hand')} {made.get('revision') or ''}".rstrip()
            + ")"
        )
        remedy = (
            "Give this one another name, so that jobs that read the folder are not disturbed, or remove the folder."
        )
        raise UserError(str(target), rule, remedy)
    return str(made["sha256"])


def _copy(uri: str, partial: Path) -> None:
    """Copy the files of an object store's folder that are not there yet. A file appears when it is complete."""
    source = Store(uri)
    sizes = source.sizes()
    if not sizes:
        raise UserError(
            source.shown(), "the folder is empty or does not exist", "Name the folder with the model's files."
        )
    local = Store(str(partial))
    there = local.sizes()
    for name, size in sizes.items():
        if there.get(name) != size:
            with source.fs.open_input_stream(source.path(name)) as stream, local.writing(name) as file:
                shutil.copyfileobj(stream, file, 1 << 24)


def main(arguments: list[str]) -> int:
    """Download all models of the list. Returns the exit code: 2 if a model is refused, 1 if a download failed."""
    file, folder = Path(arguments[0]), Path(arguments[1])
    try:
        models = read_list(file.read_text(encoding="utf-8"), str(file))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return max([_downloaded(model, folder) for model in models], default=0)


def _downloaded(model: Model, folder: Path) -> int:
    """The exit code of one model. The others are downloaded in any case."""
    print(f"{model.name}: {model.source} {model.revision or ''}".rstrip(), flush=True)
    try:
        print(f"{folder / model.name}: sha256 {download(model, folder)}", flush=True)
    except RaystillError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 network, disk and hub have many; the Job repeats, and the download resumes
        print(f"error: {model.name}: {type(error).__name__}: {last_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
