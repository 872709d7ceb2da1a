"""The plan on disk: chips.parquet, GeoParquet with one row per chip, written atomically, read whole or in batches."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import shapely.affinity

from m3etl.errors import DamagedError, InputError
from m3etl.spec.lattice import Cells

if TYPE_CHECKING:
    import geopandas

# DESIGN, section 4. `reserve` marks chips that stand in for others until their generation is fixed.
plan_types: dict[str, pa.DataType] = {
    "chip_id": pa.string(),
    "row": pa.int64(),
    "generation": pa.int32(),
    "epsg": pa.int32(),
    "xmin": pa.float64(),
    "ymin": pa.float64(),
    "xmax": pa.float64(),
    "ymax": pa.float64(),
    "lon": pa.float64(),
    "lat": pa.float64(),
    "biome": pa.int16(),
    "ecoregion": pa.int32(),
    "realm": pa.string(),
    "region": pa.string(),
    "year": pa.int16(),
    "split": pa.string(),
    "reserve": pa.bool_(),
}
geometry_column = "geometry"
batch_rows = 65_536

_polygon_wkb = np.dtype(
    [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("lonlat", "<f8", (5, 2))]
)


def write_plan(path: Path, plan: pd.DataFrame) -> None:
    """Write the plan by rename, so that it is whole at any moment; equal plans give equal bytes.

    Columns and types are those of `plan_types`; further columns are kept behind them. The geometry is always made
    anew from epsg and bounds. Raises ValueError for missing columns or a chip that occurs twice, InputError where the
    disk refuses.
    """
    missing = [name for name in plan_types if name not in plan.columns]
    if missing:
        raise ValueError(f"the plan lacks the columns {', '.join(missing)}")
    keys = _cells(plan).key
    order = np.argsort(keys, kind="stable")
    twice = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(twice):
        raise ValueError(f"chip {plan['chip_id'].iloc[int(twice[0])]} occurs twice in the plan")
    extra = pd.DataFrame(plan[[name for name in plan.columns if name not in {*plan_types, geometry_column}]])
    arrays = _extra_columns(extra)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            _write_batches(file, plan, arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {error.strerror or error}",
            hint="Free some space or make the directory writable, then run again.",
        ) from error


def read_plan(path: Path, columns: Sequence[str] | None = None) -> geopandas.GeoDataFrame:
    """The plan as a GeoDataFrame (a plain DataFrame when `columns` leave the geometry out).

    Raises InputError where there is no plan, DamagedError where the file is unreadable or lacks columns.
    """
    import geopandas

    with _opened(path) as file:
        table = file.read(columns=None if columns is None else list(columns))
    frame = _frame(table)
    if geometry_column not in frame.columns:
        return frame
    geometry = shapely.from_wkb(frame[geometry_column].to_numpy())
    return geopandas.GeoDataFrame(frame.drop(columns=geometry_column), geometry=geometry, crs="EPSG:4326")


def iterate_plan(path: Path, columns: Sequence[str] | None = None, rows: int = batch_rows) -> Iterator[pd.DataFrame]:
    """The plan in batches of at most `rows` chips, without the geometry unless `columns` name it (as WKB)."""
    with _opened(path) as file:
        names = [name for name in file.schema_arrow.names if name != geometry_column] if columns is None else columns
        for batch in file.iter_batches(batch_size=rows, columns=list(names)):
            yield _frame(pa.Table.from_batches([batch]))


def count_plan(path: Path) -> int:
    """Number of chips in the plan, from the file's footer alone."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    if not path.is_file():
        raise InputError(f"there is no plan in {path.parent}: {path.name} is absent", hint="Run `m3etl sample` first.")
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in [*plan_types, geometry_column] if name not in file.schema_arrow.names]
            if missing:
                raise DamagedError(
                    f"{path} is no plan of m3etl: it lacks the columns {', '.join(missing)}",
                    hint="Restore it from a copy, or draw the plan again with `m3etl sample` in a new directory.",
                )
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(
            f"cannot read {path}: {error}",
            hint="Restore it from a copy, or draw the plan again with `m3etl sample` in a new directory.",
        ) from error


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    return frame


def _write_batches(file: Any, plan: pd.DataFrame, extra: dict[str, pa.Array]) -> None:
    fields = [*plan_types.items(), *((name, values.type) for name, values in extra.items()), ("geometry", pa.binary())]
    schema = pa.schema(fields, metadata={"geo": _geo_metadata(_crosses_antimeridian(plan))})
    dictionary = [name for name, kind in plan_types.items() if kind == pa.string() and name != "chip_id"]
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=dictionary) as writer:
        for start in range(0, len(plan), batch_rows):
            part = plan.iloc[start : start + batch_rows]
            fixed = [_array(part[name], kind) for name, kind in plan_types.items()]
            further = [values.slice(start, len(part)) for values in extra.values()]
            writer.write_table(pa.Table.from_arrays([*fixed, *further, _footprints(part)], schema=schema))


def _array(values: pd.Series[Any], kind: pa.DataType | None = None) -> pa.Array:
    result = pa.array(values, type=kind, from_pandas=True)
    return result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result


def _extra_columns(extra: pd.DataFrame) -> dict[str, pa.Array]:
    """Arrow arrays of the user's own columns; what Arrow cannot store as one type is stored as text."""
    arrays = {}
    for name in extra.columns:
        column = extra[name]
        try:
            arrays[str(name)] = _array(column)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            texts = [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
            arrays[str(name)] = pa.array(texts, type=pa.string())
    return arrays


def _cells(plan: pd.DataFrame) -> Cells:
    size = round(float(plan["xmax"].iloc[0] - plan["xmin"].iloc[0])) if len(plan) else 10
    column, row = (np.round(plan[name].to_numpy(dtype=np.float64) / size).astype(np.int64) for name in ("xmin", "ymin"))
    return Cells(cell_m=size, epsg=plan["epsg"].to_numpy(dtype=np.int64), column=column, row=row)


def _crosses_antimeridian(plan: pd.DataFrame) -> bool:
    lon = plan["lon"].to_numpy(dtype=np.float64)
    near = plan.iloc[np.flatnonzero(np.abs(lon) > 170.0)]
    if not len(near):
        return False
    corner_lon, _ = _cells(near).corners_lonlat()
    return bool(np.any((corner_lon > 180.0) | (corner_lon < -180.0)))


def _footprints(plan: pd.DataFrame) -> pa.Array:
    """Footprints as WKB polygons, built without an object per chip; those on the antimeridian are cut in two."""
    lon, lat = _cells(plan).corners_lonlat()
    ring = np.stack([lon, lat], axis=2)[:, [0, 1, 2, 3, 0]]
    records = np.zeros(len(plan), dtype=_polygon_wkb)
    records["order"], records["kind"], records["rings"], records["points"] = 1, 3, 1, 5
    records["lonlat"] = ring
    crossing = np.flatnonzero((lon.max(axis=1) > 180.0) | (lon.min(axis=1) < -180.0))
    if not len(crossing):
        offsets = np.arange(len(plan) + 1, dtype=np.int32) * _polygon_wkb.itemsize
        return pa.Array.from_buffers(
            pa.binary(), len(plan), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(records.tobytes())]
        )
    values: list[bytes] = [record.tobytes() for record in records]
    for index in crossing.tolist():
        values[index] = shapely.to_wkb(_cut_at_antimeridian(ring[index]), byte_order=1)
    return pa.array(values, type=pa.binary())


def _cut_at_antimeridian(ring: npt.NDArray[np.float64]) -> Any:
    """A multipolygon with both parts within [-180, 180] (RFC 7946, section 3.1.9)."""
    polygon = shapely.Polygon(ring)
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        part = shapely.intersection(polygon, shapely.box(turn - 180.0, -90.0, turn + 180.0, 90.0))
        if part.area > 0:
            parts.append(shapely.affinity.translate(part, xoff=-turn))
    return shapely.multipolygons(parts)


def _geo_metadata(has_multipolygons: bool) -> bytes:
    """GeoParquet 1.1: WKB in longitude and latitude (OGC:CRS84 where no CRS is stated)."""
    kinds = ["Polygon", "MultiPolygon"] if has_multipolygons else ["Polygon"]
    column = {"encoding": "WKB", "geometry_types": kinds}
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}).encode()
