"""Parquet files as bytes, for `Store.write`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def parquet_bytes(table: pa.Table, **settings: Any) -> bytes:
    """The table as one Parquet file, compressed with zstd unless `settings` say otherwise.

    Args:
        settings: arguments of `pyarrow.parquet.write_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, **{"compression": "zstd", **settings})
    return bytes(buffer.getvalue())
