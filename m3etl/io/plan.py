"""The plan on disk: chips.parquet, GeoParquet with one row per chip, written atomically, whole or in row groups, and
read whole or in batches."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
import shapely.affinity

from m3etl.errors import DamagedError, InputError
from m3etl.spec.lattice import Cells

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

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

# GeoParquet 1.1: WKB in longitude and latitude (no CRS means OGC:CRS84). Chips on the antimeridian have two parts.
_geo_metadata = json.dumps(
    {
        "version": "1.1.0",
        "primary_column": geometry_column,
        "columns": {geometry_column: {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"]}},
    }
).encode()
_polygon_wkb = np.dtype(
    [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("lonlat", "<f8", (5, 2))]
)


class PlanWriter:
    """Writes a plan in row groups. The file appears by rename when the context ends without an error, else not at all.

    `extra`: the columns behind those of `plan_types`, with their types. Raises InputError where the disk refuses.
    """

    def __init__(self, path: Path, extra: Mapping[str, pa.DataType] | None = None) -> None:
        self.rows = 0
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        fields = [*plan_types.items(), *(extra or {}).items(), (geometry_column, pa.binary())]
        self.schema = pa.schema(fields, metadata={"geo": _geo_metadata})
        self._dictionary = [name for name, kind in plan_types.items() if kind == pa.string() and name != "chip_id"]

    def __enter__(self) -> Self:
        try:
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise self._refused(error) from error
        self._writer = pq.ParquetWriter(self._file, self.schema, compression="zstd", use_dictionary=self._dictionary)
        return self

    def write(self, rows: pa.Table) -> None:
        """Append chips: the columns of `plan_types` and the extra ones; a geometry is taken over or made."""
        self.append(self.prepared(rows))

    def prepared(self, rows: pa.Table) -> pa.Table:
        """The chips as they are stored; missing extra columns become null. ValueError where others are missing.

        Changes nothing of the writer, so threads may prepare while another one appends.
        """
        if geometry_column not in rows.column_names:
            rows = rows.append_column(geometry_column, _footprints(cells_of_rows(rows)))
        absent = [name for name in self.schema.names if name not in rows.column_names]
        if not plan_types.keys().isdisjoint(absent):
            raise ValueError(f"the plan lacks the columns {', '.join(name for name in absent if name in plan_types)}")
        for name in absent:
            rows = rows.append_column(name, pa.nulls(len(rows), self.schema.field(name).type))
        return rows.select(self.schema.names).cast(self.schema)

    def append(self, prepared: pa.Table) -> None:
        """Write prepared chips behind the others, in row groups of at most `batch_rows`."""
        try:
            self._writer.write_table(prepared, row_group_size=batch_rows)
        except OSError as error:
            raise self._refused(error) from error
        self.rows += len(prepared)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writer.close()
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self._path)
        except OSError as refused:
            raise self._refused(refused) from refused
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _refused(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write {self._path}: {error.strerror or error}",
            hint="Free some space or make the directory writable, then run again.",
        )


def write_plan(path: Path, plan: pd.DataFrame) -> None:
    """Write a plan that is held in memory; equal plans give equal bytes.

    Columns and types are those of `plan_types`; further columns are kept behind them. The geometry is always made
    anew from epsg and bounds. Raises ValueError for missing columns or a chip that occurs twice, InputError where the
    disk refuses.
    """
    missing = [name for name in plan_types if name not in plan.columns]
    if missing:
        raise ValueError(f"the plan lacks the columns {', '.join(missing)}")
    table = _fixed_columns(plan)
    keys = cells_of_rows(table).key
    order = np.argsort(keys, kind="stable")
    twice = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(twice):
        raise ValueError(f"chip {plan['chip_id'].iloc[int(twice[0])]} occurs twice in the plan")
    extra = extra_columns(plan)
    for name, values in extra.items():
        table = table.append_column(name, values)
    with PlanWriter(path, {name: values.type for name, values in extra.items()}) as writer:
        for start in range(0, len(table), batch_rows):
            writer.write(table.slice(start, batch_rows))


def extra_columns(frame: pd.DataFrame) -> dict[str, pa.Array]:
    """The user's own columns of a plan; what Arrow cannot store as one type is stored as text."""
    arrays = {}
    for name in [name for name in frame.columns if name not in {*plan_types, geometry_column}]:
        column = frame[name]
        try:
            arrays[str(name)] = _array(column)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            texts = [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
            arrays[str(name)] = pa.array(texts, type=pa.string())
    return arrays


def cells_of_rows(rows: pa.Table) -> Cells:
    """The cells of chips, from the columns epsg, xmin, ymin and xmax."""
    west, south, east = (rows[name].to_numpy() for name in ("xmin", "ymin", "xmax"))
    size = round(float(east[0] - west[0])) if len(rows) else 10
    column, row = (np.round(values / size).astype(np.int64) for values in (west, south))
    return Cells(cell_m=size, epsg=rows["epsg"].to_numpy().astype(np.int64), column=column, row=row)


def chip_id_array(cells: Cells) -> pa.Array:
    """`Cells.chip_ids` as an Arrow array, made without an object per chip."""
    column, row = (pc.utf8_lpad(pc.cast(pa.array(values), pa.string()), 4, "0") for values in (cells.column, cells.row))
    epsg = pc.cast(pa.array(cells.epsg), pa.string())
    return pc.binary_join_element_wise(epsg, f"{cells.cell_m:04d}", column, row, "-")


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


def read_stored(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The chips that have a row, batch by batch: these columns, or every one but the geometry. 1.2 million chips with
    every column take some 370 MB, with their geometries they would take 1.2 GB more.
    """
    import pandas as pd

    names = None if columns is None else list(dict.fromkeys([*columns, "row"]))
    parts = [part[part["row"] >= 0] for part in iterate_plan(path, names)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_footprints(path: Path, positions: Sequence[int]) -> list[Any]:
    """The footprints of a few chips as shapes in longitude and latitude, by their places in the plan."""
    wanted, found, start = np.asarray(positions, dtype=np.int64), dict[int, Any](), 0
    for table in iterate_tables(path, [geometry_column]):
        here = np.unique(wanted[(wanted >= start) & (wanted < start + len(table))])
        values = table[geometry_column].take(pa.array(here - start)).to_pylist()
        found.update(zip(here.tolist(), shapely.from_wkb(values), strict=True))
        start += len(table)
    return [found[position] for position in wanted.tolist()]


def iterate_plan(path: Path, columns: Sequence[str] | None = None, rows: int = batch_rows) -> Iterator[pd.DataFrame]:
    """The plan in batches of at most `rows` chips, without the geometry unless `columns` name it (as WKB)."""
    with _opened(path) as file:
        names = [name for name in file.schema_arrow.names if name != geometry_column] if columns is None else columns
        for batch in file.iter_batches(batch_size=rows, columns=list(names)):
            yield _frame(pa.Table.from_batches([batch]))


def iterate_tables(path: Path, columns: Sequence[str] | None = None, rows: int = batch_rows) -> Iterator[pa.Table]:
    """The plan in Arrow tables of at most `rows` chips, every column (geometry as WKB) or those named."""
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns)):
            yield pa.Table.from_batches([batch]).replace_schema_metadata(None)


def extra_types(path: Path) -> dict[str, pa.DataType]:
    """The user's own columns of a plan and their types."""
    with _opened(path) as file:
        return {
            field.name: field.type
            for field in file.schema_arrow
            if field.name not in plan_types and field.name != geometry_column
        }


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


def _fixed_columns(plan: pd.DataFrame) -> pa.Table:
    return pa.table({name: _array(plan[name], kind) for name, kind in plan_types.items()})


def _array(values: pd.Series[Any], kind: pa.DataType | None = None) -> pa.Array:
    result = pa.array(values, type=kind, from_pandas=True)
    return result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result


def _footprints(cells: Cells) -> pa.Array:
    """Footprints as WKB polygons, built without an object per chip; those on the antimeridian are cut in two."""
    lon, lat = cells.corners_lonlat()
    ring = np.stack([lon, lat], axis=2)[:, [0, 1, 2, 3, 0]]
    records = np.zeros(len(cells), dtype=_polygon_wkb)
    records["order"], records["kind"], records["rings"], records["points"] = 1, 3, 1, 5
    records["lonlat"] = ring
    crossing = np.flatnonzero(((lon > 180.0) | (lon < -180.0)).any(axis=1))
    if not len(crossing):
        offsets = np.arange(len(cells) + 1, dtype=np.int32) * _polygon_wkb.itemsize
        return pa.Array.from_buffers(
            pa.binary(), len(cells), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(records.tobytes())]
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
