"""Where every stored array came from: one Parquet file per sealed shard, one row per chip and array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from m3etl.errors import DamagedError
from m3etl.io.segments import sync_directory, unwritable

schema = pa.schema(
    [
        ("chip_id", pa.string()),
        ("array", pa.string()),
        ("scene_ids", pa.list_(pa.string())),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("gap_days", pa.float64()),
        ("valid_fraction", pa.float64()),
        ("cloud_fraction", pa.float64()),
        ("checksum", pa.string()),
        ("status", pa.string()),
        ("origin", pa.string()),
        ("license", pa.string()),
        (
            "periods",
            pa.list_(
                pa.struct(
                    [
                        ("period", pa.string()),
                        ("status", pa.string()),
                        ("scene_ids", pa.list_(pa.string())),
                        ("time", pa.timestamp("ms", tz="UTC")),
                        ("gap_days", pa.float64()),
                        ("valid_fraction", pa.float64()),
                        ("cloud_fraction", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodRow:
    """One date of an array that has several. gap_days: to the period's own anchor, its Sentinel-2 scene; fractions over
    the chip.
    """

    period: str
    status: str
    scene_ids: tuple[str, ...]
    time: int | None
    gap_days: float | None
    valid_fraction: float | None
    cloud_fraction: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceRow:
    """One array of one chip. time_ms: of the first scene; gap_days: to the anchor; fractions over the chip; checksum:
    sha256 hex. periods: of an array of several dates, which then has no time, gap and cloud of its own.
    """

    chip_id: str
    array: str
    scene_ids: tuple[str, ...]
    time: int | None
    gap_days: float | None
    valid_fraction: float | None
    cloud_fraction: float | None
    checksum: str | None
    status: str
    origin: str
    license: str
    periods: tuple[PeriodRow, ...] | None = None


def provenance_file(directory: Path, shard: int, addition: int = 0) -> Path:
    """The file of one shard; of the arrays that the n-th addition brought to it."""
    return _of_addition(directory, addition) / f"shard-{shard:06d}.parquet"


def write_provenance(directory: Path, shard: int, rows: Sequence[ProvenanceRow], addition: int = 0) -> None:
    """Write the file of one shard, whole or not at all; equal rows give equal bytes."""
    columns = {item.name: [getattr(row, item.name) for row in rows] for item in fields(ProvenanceRow)}
    columns["periods"] = [row.periods and [asdict(period) for period in row.periods] for row in rows]
    table = pa.table(columns, schema=schema)
    path = provenance_file(directory, shard, addition)
    directory = path.parent
    temporary = directory / f".{path.name}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(directory, error) from error


def recorded_shards(directory: Path) -> list[int]:
    """Numbers of the shards that have a file, ascending."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in directory.glob("shard-*.parquet"))


def read_provenance(directory: Path, shards: Sequence[int] | None = None) -> pd.DataFrame:
    """Every row (of the named shards, or of all) in order of shard, those of added arrays too; an empty table where
    there is nothing yet.

    Raises DamagedError for a file that is no provenance.
    """
    additions = sorted(int(path.name.removeprefix("added-")) for path in directory.glob("added-*"))
    paths = []
    for shard in recorded_shards(directory) if shards is None else shards:
        added = (provenance_file(directory, shard, addition) for addition in additions)
        paths += [provenance_file(directory, shard), *(path for path in added if path.exists())]
    tables = [_read(path) for path in paths]
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _of_addition(directory: Path, addition: int) -> Path:
    return directory / f"added-{addition}" if addition else directory


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=schema)
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(
            f"cannot read {path}: {error}", hint="Restore it from a copy; `m3etl validate` lists what is missing."
        ) from error
