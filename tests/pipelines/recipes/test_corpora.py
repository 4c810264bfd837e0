import json
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.recipes import nli_pairs, word_problems
from pipelines.tasks import load_task, task_spec

CORPORA = {"arithmetic": word_problems, "nli": nli_pairs}


@pytest.fixture(params=CORPORA)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def corpus(task: str) -> ModuleType:
    return CORPORA[task]


def shipped(corpus: ModuleType) -> Path:
    return Path(str(corpus.__file__)).parent / "corpora" / corpus.__name__.rpartition(".")[2]


def test_shipped_files_are_what_the_module_writes(corpus: ModuleType, tmp_path: Path) -> None:
    corpus.main([str(tmp_path)])
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert files == {file.name: file.read_bytes() for file in shipped(corpus).iterdir()}, "regenerate the corpus"
    assert corpus.train_rows(50, 1) != corpus.train_rows(50, 2)
    with pytest.raises(SystemExit, match="Usage"):
        corpus.main([])


def test_rows_are_distinct_and_readable_by_the_task(corpus: ModuleType, task: str) -> None:
    reader, seen = load_task(task_spec(task)), set()
    for name, count in (("train.jsonl", 480), ("test.jsonl", 120)):
        rows = [json.loads(line) for line in (shipped(corpus) / name).read_text(encoding="utf-8").splitlines()]
        examples = [reader.read({**row, "gold": row["label"]}) for row in rows]
        assert len({example.id for example in examples}) == count
        assert [example.gold for example in examples] == [row["label"] for row in rows]
        seen |= {example.input for example in examples}
    assert len(seen) == 600, "training and test share no input"
    assert not seen & {shot.question for shot in reader.shots}
