import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.storage.parquet import parquet_bytes


@pytest.mark.parametrize(("settings", "compression"), [({}, "ZSTD"), ({"compression": "snappy"}, "SNAPPY")])
def test_table_round_trips_and_zstd_is_the_default(settings: dict[str, str], compression: str) -> None:
    table = pa.table({"id": ["a", "b"], "votes": pa.array([1, None], pa.int32())})
    file = io.BytesIO(parquet_bytes(table, **settings))
    assert pq.read_table(file).equals(table)
    assert pq.read_metadata(file).row_group(0).column(0).compression == compression
