"""The dataset card: its content, and that no foreign text becomes Markdown, HTML or YAML in it."""

import json
from pathlib import Path

import pytest

from pipelines.data.schema import REJECT_REASONS
from pipelines.label.reporting.dataset_card import EXPLANATIONS, dataset_card
from pipelines.label.reporting.markdown import code, fenced
from tests.support.dataset_cards import FIGURES, LINES, NASTY, body, card_run, labels_of, shape


def test_the_card_says_how_the_labels_were_made(tmp_path: Path) -> None:
    run = card_run(
        tmp_path, ["Is it good?"], sampling={"n": 5, "temperature": 0.7},
        filters={"min_agreement": 0.4, "gold": "drop-disagreeing", "max_rationale_words": 80}, token_logprobs=5,
    )  # fmt: skip
    manifest, store = labels_of(tmp_path, [f"text {i}" for i in range(14)], **FIGURES)
    card = body(dataset_card(run, manifest, store))
    for line in LINES:
        assert line in card, line
    reasons = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ") and "|" in line[2:]]
    assert tuple(EXPLANATIONS) == REJECT_REASONS
    listed = [reason for reason in reasons if reason in REJECT_REASONS]
    assert listed == ["bad_input", "low_agreement", "disagrees_with_gold", "rationale_length"]
    shown = json.loads(card.partition("```json\n")[2].partition("\n```")[0])
    assert [row["input"] for row in shown] == [f"text {i}" for i in range(10)]
    assert shown[0]["agreement"] == 0.6


@pytest.mark.parametrize("prompt", ["plain", "chat"])
@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_no_foreign_text_becomes_markup(tmp_path: Path, text: str, prompt: str) -> None:
    texts = [text, *NASTY]
    run = card_run(tmp_path, texts, prompt=prompt, model=f"hub/{text[:300]}")
    manifest, store = labels_of(tmp_path, texts)
    tame = dataset_card(card_run(tmp_path / "tame", ["a"], prompt=prompt), *labels_of(tmp_path / "tame", ["a"]))
    assert shape(dataset_card(run, manifest, store)) == shape(tame)


def test_datasets_and_the_hub_read_the_head(tmp_path: Path) -> None:
    import datasets
    from huggingface_hub import DatasetCard

    manifest, store = labels_of(tmp_path, NASTY)
    store.write("README.md", dataset_card(card_run(tmp_path, NASTY), manifest, store).encode())
    # Only the head keeps this file out of the data.
    store.write("rejects/part-000000.parquet", store.read("data/part-000000.parquet"))
    opened = datasets.load_dataset(store.uri, cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in opened.items()} == {"train": len(NASTY)}
    assert opened["train"]["input"][:3] == NASTY[:3]
    assert DatasetCard.load(Path(store.root, "README.md")).data.license == "unknown"


def test_no_run_of_backticks_ends_a_fence_or_a_code_span() -> None:
    assert fenced("a\n````\nb") == ["`````text", "a", "````", "b", "`````"]
    assert fenced("plain", "json") == ["```json", "plain", "```"]
    assert code("a ``b`` c") == "```a ``b`` c```"
    assert code("`") == "`` ` ``"
    assert code("two\nlines\r\nand\u202emore") == "`two lines and\\u202emore`"
