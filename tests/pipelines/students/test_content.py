import random
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest, write_manifest
from pipelines.storage.store import CONTENT, Store
from pipelines.students.content import check_content, content_id, hash_files, student_files

NAMES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def student(folder: Path, *, hashed: bool = True, seed: int = 0) -> Store:
    folder.mkdir(exist_ok=True)
    chance = random.Random(seed)
    for name in NAMES:
        (folder / name).write_bytes(chance.randbytes(5000))
    store = Store(str(folder))
    details = {"files": {name: file.model_dump() for name, file in hash_files(store).items()}} if hashed else {}
    write_manifest(store, _manifest(details))
    for name in ("README.md", "training.jsonl", "progress.json"):
        (folder / name).write_text("not read by engines")
    return store


def _manifest(details: dict[str, object]) -> Manifest:
    return manifest_of("student", {}, config={}, counts={}, timings_s={}, provenance={}, details=details)


def check(store: Store) -> None:
    check_content(store, student_files(store, require_manifest(store, "student", "train RUN")), store.shown())


@pytest.mark.parametrize("hashed", [True, False], ids=["with hashes", "of 0.1, after a first look"])
def test_any_flipped_byte_is_refused_with_the_file_name(tmp_path: Path, hashed: bool) -> None:
    store, chance = student(tmp_path / "s", hashed=hashed), random.Random(1)
    check(store)
    for _ in range(20):
        name, at = chance.choice(NAMES), chance.randrange(5000)
        file = tmp_path / "s" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(UserError, match=rf"{name}: its content is not that of the trained student"):
            check(store)
        file.write_bytes(whole)
    check(store)


def test_lost_and_foreign_files_are_refused(tmp_path: Path) -> None:
    store = student(tmp_path / "s")
    (tmp_path / "s/added_tokens.json").touch()
    with pytest.raises(UserError, match=r"added_tokens.json: the file does not belong to this student"):
        check(store)
    (tmp_path / "s/added_tokens.json").unlink()
    (tmp_path / "s/tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json: the file is missing"):
        check(store)


def test_content_ids_depend_on_content_alone(tmp_path: Path) -> None:
    first, again, other = (student(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    ids = [content_id(hash_files(store)) for store in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_hashes_of_an_older_training_are_not_used(tmp_path: Path) -> None:
    store = student(tmp_path / "s", hashed=False)
    check(store)
    before = store.read(CONTENT)
    student(tmp_path / "s", hashed=False, seed=1)
    write_manifest(store, _manifest({"trained": "again"}))
    check(store)
    assert store.read(CONTENT) != before
