"""Data sets of the hub, as the files of one split.

    hf://OWNER/NAME:train  hf://OWNER/NAME/CONFIG:train      `datasets` loads it into its cache on this machine
    hf:///local/folder:train
    hf://OWNER/NAME/CONFIG:train@REVISION                    the files of this commit, branch or tag: hf://datasets/OWNER/NAME@COMMIT/...

Other machines see the cache only if HF_HOME is on a disk that they share. Files of a revision are read from the hub by each node, with the
HF_TOKEN of its environment. Their names have the commit, so nothing else can stand behind them. Code of a data set never runs.
"""

from __future__ import annotations

import re
from typing import Any

from pipelines.errors import UserError

HUB = "hf://"
PINNED = re.compile(r"hf://datasets/[^@]+@[0-9a-f]{40}/.+")
"""A file of a commit."""
_FORM = re.compile(
    r"hf://(?P<name>/[^@]+|[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?:(?P<split>\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?"
)
_TIMEOUT_S = 30.0


def hub_files(uri: str, key: str) -> list[str]:
    """The files of one split. Raises UserError.

    Args:
        key: of the setting, for messages.
    """
    if PINNED.fullmatch(uri):
        return [uri]
    where, form = f"{key} {uri}", _FORM.fullmatch(uri)
    if form is None:
        example = "Write for example hf://openai/gsm8k/main:train or hf://openai/gsm8k/main:train@REVISION."
        raise UserError(where, "not hf://OWNER/NAME[/CONFIG]:SPLIT[@REVISION]", example)
    if form["revision"] and form["name"].startswith("/"):
        raise UserError(where, "a folder of this machine has no revision", "Remove `@` and what follows it.")
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise UserError(where, "the package `datasets` is not installed", "Install raystill[hub].") from error
    try:
        return _of_revision(form, where) if form["revision"] else _of_cache(form)
    except UserError:
        raise
    except Exception as error:  # of `datasets`, the hub's client, or its HTTP library
        rule = f"`datasets` cannot load it ({' '.join(str(error).split())[:300]})"
        remedy = "Check name, config, split, revision and the way to the hub; or save it to disk and name the folder."
        raise UserError(where, rule, remedy) from error


def _of_cache(form: re.Match[str]) -> list[str]:
    import datasets

    loaded = datasets.load_dataset(form["name"], form["config"], split=form["split"])
    return [str(file["filename"]) for file in loaded.cache_files]


def _of_revision(form: re.Match[str], where: str) -> list[str]:
    import datasets
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(form["name"], revision=form["revision"], timeout=_TIMEOUT_S).sha
    builder: Any = datasets.load_dataset_builder(form["name"], form["config"], revision=commit)
    splits = builder.config.data_files or {}
    if form["split"] not in splits:
        raise UserError(where, f"it has no split {form['split']}", f"Name one of: {', '.join(map(str, splits))}.")
    files = [str(file) for file in splits[form["split"]]]
    other = next((file for file in files if not PINNED.fullmatch(file)), None)
    if other is not None:
        raise UserError(where, f"its file {other} is not in the data set's own repository", "Remove `@REVISION`.")
    return files
