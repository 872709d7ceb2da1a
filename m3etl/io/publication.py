"""What a data set looks like as files to publish: their sizes and checksums, and the table with one row per chip."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from m3etl.campaign import Campaign
from m3etl.io.layout import read_layout
from m3etl.io.provenance import read_provenance, recorded_shards
from m3etl.spec.biomes import biome_names

read_bytes = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One file: `path` inside the repository, `source` on this disk."""

    path: str
    source: Path
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Where observed values came from. licenses: array -> licence ids; synthetic: whether any of them is made up."""

    licenses: Mapping[str, frozenset[str]]
    synthetic: bool


def list_data_files(campaign: Campaign) -> list[PublishedFile]:
    """The store and the provenance, sorted by path; unfinished temporary files are left out."""
    found: list[PublishedFile] = []
    for name in (campaign.store_path.name, campaign.provenance_path.name):
        found.extend(_files_below(campaign.root / name, name))
    return sorted(found, key=lambda file: file.path)


def hash_files(files: Iterable[PublishedFile]) -> Iterator[PublishedFile]:
    """The same files with their sha256, one after the other."""
    for file in files:
        digest = hashlib.sha256()
        with file.source.open("rb") as handle:
            while block := handle.read(read_bytes):
                digest.update(block)
        yield PublishedFile(path=file.path, source=file.source, size=file.size, sha256=digest.hexdigest())


def git_sha1(path: Path) -> str:
    """The checksum that git gives the content of a file: sha1 over a header with its length, and the bytes."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def entries_per_folder(files: Iterable[PublishedFile]) -> Counter[str]:
    """Number of files and folders directly inside each folder of the repository."""
    children: dict[str, set[str]] = {}
    for file in files:
        path = PurePosixPath(file.path)
        for child, parent in zip((path, *path.parents), path.parents, strict=False):
            children.setdefault(str(parent), set()).add(child.name)
    return Counter({folder: len(names) for folder, names in children.items()})


def read_origins(campaign: Campaign, catalogue_licenses: Mapping[str, str]) -> Origins:
    """Licences and origins of all observed values, from provenance, shard by shard.

    A row without a licence of its own has the catalogue's; but what an archive does not state is unknown.
    """
    used: dict[str, set[str]] = {}
    synthetic = False
    for path in _provenance_files(campaign):
        table = pq.read_table(path, columns=["array", "status", "origin", "license"])
        rows = table.group_by(["array", "status", "origin", "license"]).aggregate([]).to_pylist()
        for row in rows:
            if row["status"] != "ok":
                continue
            unstated = "unknown" if row["origin"] == "archive" else catalogue_licenses.get(row["array"], "unknown")
            used.setdefault(row["array"], set()).add(row["license"] or unstated)
            synthetic = synthetic or row["origin"] == "planet"
    return Origins(licenses={name: frozenset(ids) for name, ids in used.items()}, synthetic=synthetic)


def write_metadata(path: Path, campaign: Campaign, plan: pd.DataFrame, arrays: Sequence[str]) -> int:
    """metadata.parquet: one row per stored chip: place, labels, split, and per array how much was observed and when.

    Written shard by shard; returns the number of rows. `arrays` fixes the columns, so that every shard has the same.
    """
    stored = plan[plan["row"] >= 0].drop(columns=["geometry", "xmax", "ymin"], errors="ignore").set_index("chip_id")
    places = pd.DataFrame(stored)
    places.insert(
        0, "biome_name", [biome_names[code] if 0 <= code < len(biome_names) else None for code in places["biome"]]
    )
    schema = _metadata_schema(places, arrays)
    count = 0
    temporary = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        shard_chips = read_layout(campaign.store_path).shard_chips
        for shard in recorded_shards(campaign.provenance_path):
            rows = _metadata_rows(read_provenance(campaign.provenance_path, [shard]), places, arrays)
            rows = rows[rows["row"] // shard_chips == shard]  # others failed here and have another row since
            writer.write_table(pa.Table.from_pandas(rows, schema=schema, preserve_index=False))
            count += len(rows)
    temporary.replace(path)
    return count


def _metadata_schema(places: pd.DataFrame, arrays: Sequence[str]) -> pa.Schema:
    """One schema for all shards: a column of the plan may hold nothing at all in some of them."""
    fields = [
        pa.field(field.name, pa.string() if pa.types.is_null(field.type) else field.type)
        for field in pa.Schema.from_pandas(places, preserve_index=True)
    ]
    fields.sort(key=lambda field: field.name != "chip_id")
    for array in arrays:
        fields.append(pa.field(f"{array}_valid_fraction", pa.float32()))
        fields.append(pa.field(f"{array}_time", pa.timestamp("ms", tz="UTC")))
    return pa.schema(fields)


def _metadata_rows(provenance: pd.DataFrame, places: pd.DataFrame, arrays: Sequence[str]) -> pd.DataFrame:
    chips = provenance["chip_id"].drop_duplicates()
    rows = places.reindex(chips[chips.isin(places.index)])
    rows.index.name = "chip_id"
    observed = provenance[provenance["status"] == "ok"].drop_duplicates(["chip_id", "array"], keep="last")
    columns: dict[str, pd.Series] = {}
    for array in arrays:
        mine = observed[observed["array"] == array].set_index("chip_id").reindex(rows.index)
        columns[f"{array}_valid_fraction"] = mine["valid_fraction"].astype("float32").fillna(0.0)
        columns[f"{array}_time"] = pd.to_datetime(mine["time"], utc=True).astype("datetime64[ms, UTC]")
    return pd.concat([rows, pd.DataFrame(columns, index=rows.index)], axis=1).sort_values("row").reset_index()


def _files_below(path: Path, name: str) -> Iterator[PublishedFile]:
    for file in path.rglob("*"):
        inside = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            yield PublishedFile(path=f"{name}/{inside.as_posix()}", source=file, size=file.stat().st_size)


def _provenance_files(campaign: Campaign) -> list[Path]:
    return sorted(path for path in campaign.provenance_path.rglob("*.parquet") if not path.name.startswith("."))
