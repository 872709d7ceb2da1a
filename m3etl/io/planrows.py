"""Rows and generations written into chips.parquet, batch by batch; the other columns stay as they are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from m3etl.errors import DamagedError
from m3etl.io.plan import batch_rows, plan_types
from m3etl.io.segments import sync_directory, unwritable

RowsOf = Callable[[Sequence[str]], Sequence[tuple[int, int]]]  # chip ids -> (row, generation) of each, (-1, -1) without


def write_plan_rows(path: Path, rows_of: RowsOf) -> None:
    """Write the plan anew with these rows and generations, whole or not at all.

    Raises DamagedError where the plan cannot be read, InputError where the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            _copy(path, file, rows_of)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except pa.ArrowInvalid as error:
        raise DamagedError(f"cannot read {path}: {error}", hint="Restore it from a copy.") from error
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _copy(path: Path, file: Any, rows_of: RowsOf) -> None:
    dictionary = [name for name, kind in plan_types.items() if kind == pa.string() and name != "chip_id"]
    with (
        pq.ParquetFile(path) as plan,
        pq.ParquetWriter(file, plan.schema_arrow, compression="zstd", use_dictionary=dictionary) as writer,
    ):
        for table in _tables(plan):
            places = np.array(rows_of(table["chip_id"].to_pylist()), dtype=np.int64).reshape(-1, 2)
            for column, name in enumerate(("row", "generation")):
                field = table.schema.field(name)
                values = pa.array(places[:, column].copy(), type=field.type)
                table = table.set_column(table.schema.get_field_index(name), field, values)
            writer.write_table(table)


def _tables(plan: pq.ParquetFile) -> Iterator[pa.Table]:
    for batch in plan.iter_batches(batch_size=batch_rows):
        yield pa.Table.from_batches([batch], schema=plan.schema_arrow)
