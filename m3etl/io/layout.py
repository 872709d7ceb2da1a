"""The metadata files of chips.zarr: Zarr v3 documents and CF attributes, made from array declarations and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from m3etl.errors import DamagedError, InputError
from m3etl.io.shards import ChunkCodec, codec_names
from m3etl.spec.modality import ArraySpec, ClassCode, Resampling, Shape, Temporal, Transform, Values
from m3etl.spec.program import Program

store_version = 1
chip_columns: Mapping[str, str] = {
    "lon": "float64",
    "lat": "float64",
    "epsg": "int32",
    "xmin": "float64",
    "ymax": "float64",
    "split": "string",
    "chip_id": "string",  # the last one written: a row counts when its chip_id is there
}
missing_epsg = -1
_column_units = {"lon": "degrees_east", "lat": "degrees_north", "xmin": "m", "ymax": "m"}
_column_titles = {
    "lon": "longitude of the chip's centre",
    "lat": "latitude of the chip's centre",
    "epsg": "EPSG code of the chip's grid",
    "xmin": "west edge in the chip's grid",
    "ymax": "north edge in the chip's grid",
    "split": "train, val, test or buffer",
    "chip_id": "name of the chip, empty in padding rows",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLayout:
    """Everything that the metadata of a store says: its arrays, the number of rows, chips per shard, codec profile.

    chip_m: side of a chip in metres. superseded: rows whose chip failed there and has another row since, ascending.
    """

    specs: Mapping[str, ArraySpec]
    rows: int
    chip_m: float
    shard_chips: int
    codec: str
    superseded: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.shard_chips < 1 or self.rows < 0 or not self.chip_m > 0 or self.codec not in codec_names:
            raise InputError(
                f"a store needs shard_chips >= 1, rows >= 0, chip_m > 0 and a codec of {', '.join(codec_names)}; found "
                f"{self.shard_chips}, {self.rows}, {self.chip_m} and {self.codec}"
            )

    @property
    def shard_count(self) -> int:
        """Shards that the rows reach into."""
        return -(-self.rows // self.shard_chips)

    def chip_shape(self, array: str) -> tuple[int, ...]:
        """(band, y, x) or (feature,) of one chip, the bands of all periods one after the other."""
        return self.specs[array].chip_shape(self.chip_m)

    def chunk_codec(self, array: str) -> ChunkCodec:
        """How a chunk of this array is encoded."""
        return ChunkCodec(profile=self.codec, dtype=np.dtype(self.specs[array].dtype))


def documents(layout: StoreLayout) -> dict[str, dict[str, Any]]:
    """Every metadata document by its path, in the order in which they may be replaced: arrays, groups, root."""
    arrays: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, spec in layout.specs.items():
        labels = {name: _text_array((len(names),), (len(names),), name) for name, names in labels_of(spec).items()}
        members = {**labels, "data": _data_array(layout, spec)}
        arrays.update({f"{name}/{member}": document for member, document in members.items()})
        groups[name] = _group({"title": spec.title, "declaration": declaration_of(spec)})
    columns = {name: _column_array(layout, name) for name in chip_columns}
    root = _group(
        {
            "Conventions": "CF-1.11",
            "title": "aligned multi-modal chips",
            "coordinates": " ".join(columns),
            "m3etl_store_version": store_version,
            "chip_m": layout.chip_m,
            "shard_chips": layout.shard_chips,
            "codec": layout.codec,
            **({"superseded_rows": list(layout.superseded)} if layout.superseded else {}),
        },
        members={**columns, **groups, **arrays},
    )
    with_members = {
        name: _group(
            group["attributes"],
            {member: arrays[f"{name}/{member}"] for member in (*labels_of(layout.specs[name]), "data")},
        )
        for name, group in groups.items()
    }
    return {**arrays, **columns, **with_members, "": root}


def read_layout(root: Path) -> StoreLayout:
    """The layout of the store in `root`, from its root document alone.

    Raises InputError where there is no store, DamagedError where the document is unreadable or of another version.
    """
    path = root / "zarr.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise no_store(str(root)) from error
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return parse_layout(content, str(path))


def no_store(where: str) -> InputError:
    """What to raise where a store was to be read and is not."""
    return InputError(f"there is no store at {where}", hint="Run `m3etl export` and `m3etl tile` first.")


def parse_layout(content: bytes, where: str) -> StoreLayout:
    """The layout from the content of the root document `where`."""
    try:
        document = json.loads(content)
        attributes, members = document["attributes"], document["consolidated_metadata"]["metadata"]
        version = attributes["m3etl_store_version"]
        if version != store_version:
            raise DamagedError(f"{where} is of store version {version}; this m3etl reads version {store_version}")
        groups = {name: member for name, member in members.items() if member["node_type"] == "group"}
        found = [spec_of(group["attributes"]["declaration"]) for group in groups.values()]
        return StoreLayout(
            specs={spec.name: spec for spec in found},
            rows=members["chip_id"]["shape"][0],
            chip_m=attributes["chip_m"],
            shard_chips=attributes["shard_chips"],
            codec=attributes["codec"],
            superseded=tuple(attributes.get("superseded_rows", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> DamagedError:
    hint = "Restore the file from a copy, or seal the store again."
    return DamagedError(f"cannot read the metadata of the store {where}: {error!r}", hint=hint)


def shard_path(root: Path, layout: StoreLayout, array: str, shard: int) -> Path:
    """The file of one shard of one array."""
    return root / array / "data" / ".".join(["c", str(shard), *["0"] * (len(axis_names(layout.specs[array])) - 1)])


def axis_names(spec: ArraySpec) -> tuple[str, ...]:
    """Names of the dimensions of `data`."""
    return ("chip", *labels_of(spec)) if spec.shape is Shape.VECTOR else ("chip", *labels_of(spec), "y", "x")


def labels_of(spec: ArraySpec) -> dict[str, tuple[str, ...]]:
    """The names along the dimensions of `data` that have names, stored as coordinates beside it."""
    if spec.shape is Shape.VECTOR:
        return {"feature": spec.bands}
    return {"period": spec.periods, "band": spec.band_names} if spec.periods else {"band": spec.bands}


def declaration_of(spec: ArraySpec) -> str:
    """The declaration as JSON text, without what has its default; `spec_of` is the inverse."""
    values = asdict(spec)
    kept = {
        item.name: values[item.name]
        for item in fields(spec)
        if item.default is MISSING or values[item.name] != item.default
    }
    return json.dumps(kept, sort_keys=True)


def spec_of(text: str) -> ArraySpec:
    """A declaration from its JSON text, as `declaration_of` writes it."""
    values = json.loads(text)
    for name, kind in {
        "shape": Shape,
        "values": Values,
        "temporal": Temporal,
        "resampling": Resampling,
        "transform": Transform,
    }.items():
        if name in values:
            values[name] = kind(values[name])
    for name in ("bands", "source", "periods"):
        values[name] = tuple(values.get(name, ()))
    values["classes"] = tuple(ClassCode(**item) for item in values.get("classes", ()))
    if values.get("program"):
        values["program"] = Program.from_json(values["program"])
    return ArraySpec(**values)


def _group(attributes: Mapping[str, Any], members: Mapping[str, Any] | None = None) -> dict[str, Any]:
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if members is not None:
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": dict(members)}
    return document


def _array(
    shape: Sequence[int],
    chunk_shape: Sequence[int],
    names: Sequence[str],
    data_type: str,
    fill_value: Any,
    codecs: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill_value,
        "codecs": list(codecs),
        "attributes": dict(attributes),
        "dimension_names": list(names),
    }


def _text_array(
    shape: Sequence[int], chunks: Sequence[int], name: str, attributes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    codecs = [{"name": "vlen-utf8"}, {"name": "crc32c"}]
    return _array(shape, chunks, (name,), "string", "", codecs, attributes or {})


def _column_array(layout: StoreLayout, name: str) -> dict[str, Any]:
    kind = chip_columns[name]
    attributes: dict[str, Any] = {"long_name": _column_titles[name]}
    if kind == "string":
        return _text_array((layout.rows,), (layout.shard_chips,), "chip", attributes)
    fill: Any = "NaN"
    if name in _column_units:
        attributes["units"] = _column_units[name]
    if kind == "int32":
        fill = attributes["_FillValue"] = missing_epsg
    codecs = ChunkCodec(profile=layout.codec, dtype=np.dtype(kind)).metadata()
    return _array((layout.rows,), (layout.shard_chips,), ("chip",), kind, fill, codecs, attributes)


def _data_array(layout: StoreLayout, spec: ArraySpec) -> dict[str, Any]:
    chip_shape = spec.with_periods(spec.chip_shape(layout.chip_m))
    codecs = layout.chunk_codec(spec.name).metadata()
    if spec.shape is Shape.RASTER:
        codecs = [_sharding([1, *chip_shape], codecs)]
    fill = "NaN" if spec.fill is None else spec.fill
    shape, chunks = [layout.rows, *chip_shape], [layout.shard_chips, *chip_shape]
    return _array(shape, chunks, axis_names(spec), spec.dtype, fill, codecs, _attributes(layout, spec))


def _sharding(chunk_shape: list[int], codecs: list[dict[str, Any]]) -> dict[str, Any]:
    configuration = {
        "chunk_shape": chunk_shape,
        "codecs": codecs,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {"name": "sharding_indexed", "configuration": configuration}


def _attributes(layout: StoreLayout, spec: ArraySpec) -> dict[str, Any]:
    """CF attributes of `data`: readers get physical units and missing values from these alone."""
    found: dict[str, Any] = {"long_name": spec.title, "units": spec.units}
    if spec.scale != 1:
        found["scale_factor"] = spec.scale
    if spec.offset != 0:
        found["add_offset"] = spec.offset
    if spec.fill is not None:
        found["_FillValue"] = spec.fill
    if spec.shape is Shape.RASTER:
        found["gsd_m"] = layout.chip_m / spec.pixels(layout.chip_m)
    if spec.native_gsd_m:
        found["native_gsd_m"] = spec.native_gsd_m
    found["source"] = ", ".join(spec.source)
    found["resampling"] = str(spec.resampling)
    if spec.classes:
        found["flag_values"] = [item.code for item in spec.classes]
        found["flag_meanings"] = " ".join("_".join(item.name.split()) for item in spec.classes)
    return found
