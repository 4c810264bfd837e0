"""The files that a corpus setting names: files, globs, folders, lists, saved data sets, and data sets of the hub."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pipelines.data.reader import check_columns, corpus_files
from pipelines.errors import UserError
from pipelines.storage.fingerprint import file_fingerprint
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import corpus_ids, word_problem_rows, write_jsonl

TASK = load_task(task_spec("arithmetic"))
ROWS = word_problem_rows(2500)
KEY = "corpus.train"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = ("a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl", "_left/out.jsonl", ".hidden.jsonl", "notes.md")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"]),
        ("*.jsonl", [".hidden.jsonl", "a.jsonl", "b.jsonl"]),
        ("[ab].jsonl", ["a.jsonl", "b.jsonl"]), ("?.jsonl", ["a.jsonl", "b.jsonl"]), ("*/c.jsonl", ["sub/c.jsonl"]),
        ("sub/**/*.jsonl", ["sub/c.jsonl", "sub/deep/d.jsonl"]),
        ("s*/**", ["sub/c.jsonl", "sub/deep/d.jsonl"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_globs_and_folders_name_their_files(tree: Path, pattern: str, names: list[str], scheme: str) -> None:
    if scheme and "?" in pattern:
        with pytest.raises(UserError):  # in a URI a `?` begins the query part
            corpus_files(f"{scheme}{tree}/{pattern}", KEY)
        return
    files = [f"{scheme}{tree}/{name}" for name in names]
    assert corpus_files(f"{scheme}{tree}/{pattern}", KEY) == files
    last = str(tree / "_left/out.jsonl")
    assert corpus_files([last, f"{scheme}{tree}/{pattern}"], KEY) == [last, *files], "a list keeps its order"


def test_names_may_have_the_signs_of_globs_and_uris(tmp_path: Path) -> None:
    for name in ("a[1].jsonl", "b c?%20.jsonl"):
        write_jsonl(tmp_path / name, ROWS[:1])
    assert corpus_files(str(tmp_path / "a[1].jsonl"), KEY) == [str(tmp_path / "a[1].jsonl")]
    files = corpus_files(f"file://{tmp_path}", KEY)
    assert files == [f"file://{tmp_path}/a%5B1%5D.jsonl", f"file://{tmp_path}/b%20c%3F%2520.jsonl"]
    assert corpus_ids(f"file://{tmp_path}") == ["r0", "r0"]


@pytest.mark.parametrize(
    "named", ["none.jsonl", "none/*.jsonl", "notes.md", "none/", [], "file:///none.jsonl", "*.md", "", [" "]]
)
def test_missing_files_and_other_formats_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch, named: Any) -> None:
    monkeypatch.chdir(tree)
    with pytest.raises(UserError):
        corpus_files(named, KEY)


@pytest.mark.parametrize(("shards", "shuffled"), [(1, False), (3, False), (1, True)])
def test_a_saved_dataset_is_read_in_its_order(tmp_path: Path, shards: int, shuffled: bool) -> None:
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    dataset = dataset.shuffle(seed=0) if shuffled else dataset
    folder = str(tmp_path / "saved")
    dataset.save_to_disk(folder, num_shards=shards)
    code = (
        "import sys; from tests.support.corpora import corpus_ids; print(*corpus_ids(sys.argv[1]))\n"
        "assert 'datasets' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout
    assert out.split() == dataset["id"][:]
    check_columns(corpus_files(folder, KEY), TASK, {}, KEY)


def test_a_saved_dataset_dict_needs_the_split(tmp_path: Path) -> None:
    import datasets

    whole = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": whole, "test": whole.select([1, 5])}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"splits test, train\. Name one of them: .*saved/test"):
        corpus_files(str(tmp_path / "saved"), KEY)
    assert corpus_ids(str(tmp_path / "saved/test")) == ["r1", "r5"]
    assert corpus_ids(f"file://{tmp_path}/saved/train") == [row["id"] for row in ROWS]


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        ("{oops", "not JSON"),
        ("{}", "names no data files"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}', "an old version"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "no such file any more"),
    ],
)
def test_a_damaged_saved_dataset_is_one_error(tmp_path: Path, state: str, rule: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(UserError, match=rule):
        check_columns(corpus_files(str(tmp_path), KEY), TASK, {}, KEY)


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `datasets` can load without a hub, and a cache of its own."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "plain").mkdir()
    write_jsonl(tmp_path / "plain/train.jsonl", ROWS)
    write_jsonl(tmp_path / "plain/test.jsonl", ROWS[7:8])
    return tmp_path / "plain"


def test_a_dataset_of_the_hub_is_read_from_the_cache(hub_folder: Path) -> None:
    named = f"hf://{hub_folder}:train"
    files = corpus_files(named, KEY)
    assert all(Path(file).is_relative_to(hub_folder.parent / "cache") for file in files)
    assert corpus_ids(named) == [row["id"] for row in ROWS]
    assert corpus_ids([f"hf://{hub_folder}:test", named])[:2] == ["r7", "r0"]


def test_code_in_a_dataset_never_runs(hub_folder: Path) -> None:
    ran = hub_folder / "ran"
    (hub_folder / "plain.py").write_text(f"open({str(ran)!r}, 'w').write('x')\nraise SystemExit(3)\n")
    with pytest.raises(UserError, match="scripts are no longer supported"):
        corpus_files(f"hf://{hub_folder}:train", KEY)
    assert not ran.exists()
    with pytest.raises(UserError, match="`datasets` cannot load it"):
        corpus_files(f"hf://{hub_folder}:validation", KEY)


def test_files_of_a_revision_are_named_by_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is a folder here; what it serves was not tried."""
    commit = "a1" * 20
    folder = tmp_path / f"datasets/owner/name@{commit}/data"
    folder.mkdir(parents=True)
    write_jsonl(folder / "train.jsonl", ROWS)
    files = {"train": [f"hf://datasets/owner/name@{commit}/data/train.jsonl"], "test": ["https://host/test.jsonl"]}
    builder = SimpleNamespace(config=SimpleNamespace(data_files=files))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha=commit))
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, revision: builder if revision == commit else None)
    local = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr("pipelines.storage.filesystems._opened", lambda uri: (local, uri.removeprefix("hf://")))
    named = "hf://owner/name:train@refs/pr/1"
    assert corpus_files(named, KEY) == files["train"]
    assert corpus_ids(named) == [row["id"] for row in ROWS]
    assert file_fingerprint(files["train"][0]) == file_fingerprint(corpus_files(files["train"][0], KEY)[0])
    for split, rule in (("dev", "it has no split dev.*train, test"), ("test", "not in the data set's own repository")):
        with pytest.raises(UserError, match=rule):
            corpus_files(f"hf://owner/name:{split}@main", KEY)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", Mock(side_effect=httpx.ConnectError("refused")))
    with pytest.raises(UserError, match="the way to the hub"):
        corpus_files(named, KEY)
    with pytest.raises(UserError, match="has no revision"):
        corpus_files("hf:///a/folder:train@main", KEY)


@pytest.mark.parametrize(
    "named", ["hf://owner/name", "hf://owner/name:train[:10%]", "hf://a/b/c/d:train", "hf://:train", "hf://"]
)
def test_a_name_of_another_form_is_refused(named: str) -> None:
    with pytest.raises(UserError, match="not hf://OWNER/NAME"):
        corpus_files(named, KEY)


def test_a_dataset_out_of_reach_is_one_error() -> None:
    names = ["hf://owner-none/nothing:train", "hf://owner-none/nothing/main:train", "hf:///nowhere:train"]
    code = (
        "import sys\nfrom pipelines.data.reader import corpus_files\nfrom pipelines.errors import UserError\nfor name in sys.argv[1:]:\n"
        "  try: corpus_files(name, 'corpus.train')\n  except UserError as error: print(error)"
    )
    env = {"HF_HUB_OFFLINE": "1", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run([sys.executable, "-c", code, *names], env=env, capture_output=True, text=True, check=True)
    for name, line in zip(names, run.stdout.splitlines(), strict=True):
        assert line.startswith(f"corpus.train {name}: `datasets` cannot load it")
