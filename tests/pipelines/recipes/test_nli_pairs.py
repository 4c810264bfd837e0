import json
from collections import Counter, defaultdict
from pathlib import Path

from pipelines.errors import UnparsableError
from pipelines.recipes import nli_pairs
from pipelines.recipes.nli_pairs import ASPECTS, TEST_FRAMES, TRAIN_FRAMES
from pipelines.tasks import load_task, task_spec
from pipelines.tasks.nli import LABELS

SHIPPED = Path(nli_pairs.__file__).parent / "corpora" / "nli_pairs"
TASK = load_task(task_spec("nli"))


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SHIPPED / name).read_text(encoding="utf-8").splitlines()]


ROWS = (*_rows("train.jsonl"), *_rows("test.jsonl"))


def _claim(row: dict[str, str]) -> str:
    """Claim of the hypothesis: one of the phrases of the module."""
    phrases = [p for options in nli_pairs._CIRCUMSTANCES.values() for p in options]
    phrases += [p for a in nli_pairs._ACTIVITIES for p in (a.exact, a.general)]
    named = [p for p in phrases if row["hypothesis"].endswith(f" {p}.")]
    assert len(named) == 1, row
    return named[0]


def test_every_label_follows_from_the_premise() -> None:
    """Judged from the texts alone, without the generator's plan."""
    for row in ROWS:
        claim, premise = _claim(row), row["premise"]
        for activity in nli_pairs._ACTIVITIES:
            if claim in (activity.exact, activity.general):
                if claim in premise or activity.exact in premise:
                    expected = "entailment"
                else:
                    expected = "neutral" if activity.general in premise else "contradiction"
        for options in nli_pairs._CIRCUMSTANCES.values():
            if claim in options:
                stated = [option for option in options if option in premise]
                assert len(stated) <= 1
                expected = "neutral" if not stated else "entailment" if stated == [claim] else "contradiction"
        assert row["label"] == expected, row


def test_training_and_test_share_no_template() -> None:
    for part in ("premise", *ASPECTS):
        assert not set(getattr(TRAIN_FRAMES, part)) & set(getattr(TEST_FRAMES, part))


def test_labels_are_balanced_and_no_hypothesis_reveals_them() -> None:
    by_claim: dict[str, Counter[str]] = defaultdict(Counter)
    for row in ROWS[:480]:
        by_claim[_claim(row)][row["label"]] += 1
    assert sum(max(labels.values()) for labels in by_claim.values()) < 0.55 * 480
    for rows in (ROWS[:480], ROWS[480:]):
        assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, len(rows) // 3)


def test_explanations_do_not_name_labels() -> None:
    for row in ROWS:
        assert not any(word in row["explanation"].lower() for word in ("entail", "neutral", "contradict"))
        assert row["explanation"].endswith(".")
        assert not set("{}") & set(row["explanation"] + row["premise"] + row["hypothesis"])


def test_generated_teacher_makes_a_few_mistakes() -> None:
    rows = {row["id"]: row for row in ROWS}
    answers = _rows("teacher.jsonl")
    assert [answer["id"] for answer in answers] == list(rows)
    outcome: Counter[str] = Counter()
    for answer in answers:
        row = rows[answer["id"]]
        example = TASK.read({**row, "gold": row["label"]})
        try:
            parsed = TASK.parse(answer["output"], example)
        except UnparsableError:
            outcome["unreadable"] += 1
            continue
        outcome["right" if parsed.label == example.gold else "wrong"] += 1
        assert parsed.rationale == row["explanation"]
    assert 0.005 * len(answers) < outcome["unreadable"] < 0.04 * len(answers)
    assert 0.02 * len(answers) < outcome["wrong"] < 0.07 * len(answers)
