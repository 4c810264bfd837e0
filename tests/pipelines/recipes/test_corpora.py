import pytest

from pipelines.tasks import load_task, task_spec
from tests.support.corpora import shipped_rows


@pytest.mark.parametrize(("corpus", "task"), [("word_problems", "arithmetic"), ("nli_pairs", "nli")])
def test_rows_are_distinct_and_readable_by_the_task(corpus: str, task: str) -> None:
    reader, seen = load_task(task_spec(task)), set()
    for name, count in (("train", 480), ("test", 120)):
        rows = shipped_rows(f"{corpus}/{name}")
        examples = [reader.read({**row, "gold": row["label"]}) for row in rows]
        assert len({example.id for example in examples}) == count
        assert [example.gold for example in examples] == [row["label"] for row in rows]
        seen |= {example.input for example in examples}
    assert len(seen) == 600, "training and test share no input"
    assert not seen & {shot.question for shot in reader.shots}
