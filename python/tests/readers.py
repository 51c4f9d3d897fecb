"""The files of a published version, opened by foreign Delta readers, against what the command read.

READ is a Parquet file that `custody read` wrote, TABLE the version's Delta folder. Prints what each reader found.
"""

import os

import deltalake
import polars
import pyarrow
import pyarrow.parquet


def rows(table):
    """The rows of a table as values, without the metadata of its schema."""
    return table.to_pylist()


read = pyarrow.parquet.read_table(os.environ["READ"])
folder = os.environ["TABLE"]

delta = deltalake.DeltaTable(folder)
by_deltalake = pyarrow.table(delta.to_pyarrow_table()) if hasattr(delta, "to_pyarrow_table") else None
by_polars = polars.read_delta(folder).to_arrow()

for name, found in [("deltalake", by_deltalake), ("polars", by_polars)]:
    same = rows(found.select(read.column_names)) == rows(read)
    print(f"{name}: {found.num_rows} rows, {'the same' if same and found.num_rows == read.num_rows else 'NOT the same'}")
