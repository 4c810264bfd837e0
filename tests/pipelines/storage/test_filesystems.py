import pytest

from pipelines.errors import UserError
from pipelines.storage.filesystems import ancestor, check_no_credentials, join, open_filesystem, shown
from pipelines.storage.store import Store


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("s3:///key.jsonl", "names no bucket"),
        ("s3://bucket/a.jsonl?colour=red", "not an option of S3"),
        ("s3://bucket/a.jsonl?anonymous=perhaps", "not an option of S3"),
        ("file://host/a.jsonl", "a file of this machine"),
        ("nonsense://a.jsonl", "no filesystem opens it"),
        ("s3://KEY:hidden@bucket/a.jsonl", "s3://bucket/a.jsonl: credentials in a URI"),
        ("s3://KEY@bucket/a.jsonl", "credentials in a URI"),
        ("abfs://c@host/a?client_secret=hidden&tenant_id=t", r"abfs://host/a\?&tenant_id=t: credentials in a URI"),
        ("abfs://c@host/a?sv=1&sig=hidden", "credentials in a URI"),
        ("hdfs://user:hidden@host/a.jsonl", "credentials in a URI"),
    ],
)
def test_an_impossible_uri_is_refused(uri: str, rule: str) -> None:
    for opens in (open_filesystem, Store):
        with pytest.raises(UserError, match=rule) as refused:
            opens(uri)
        assert "hidden" not in str(refused.value)


def test_paths_keep_the_query_part_and_lose_credentials() -> None:
    check_no_credentials("Is http://a:b@c/?token=1 phishing?")  # the text of an example
    assert join("s3://k:s@b/f/?region=x", "a b/c.json") == "s3://k:s@b/f/a%20b/c.json?region=x"
    assert join("/data/", "a b?.json") == "/data/a b?.json"
    assert ancestor("s3://b/f/a.json?region=x", 1) == "s3://b/f?region=x"
    assert ancestor("/a", 1) == "/"
    assert shown("s3://k:s@b/f?region=x") == "s3://b/f?region=x"
    assert shown("s3://b/f?user=a@b") == "s3://b/f?user=a@b"
    assert shown("from s3://k:s@b/f, gs://b/g@h and s3://k:s@x:s@b.") == "from s3://b/f, gs://b/g@h and s3://b."
