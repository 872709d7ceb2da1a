"""The data set on disk, chips.zarr: create, grow and open it. Sealing, reading and metadata have their own modules."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from m3etl.errors import DamagedError, InputError
from m3etl.io.columns import encode_text
from m3etl.io.identity import dataset_id
from m3etl.io.layout import StoreLayout, documents, labels_of, no_store, parse_layout, read_layout
from m3etl.io.reader import ChipStore, ShardAudit
from m3etl.io.sealing import SealedChip, flush_threads, seal_shard
from m3etl.io.shards import flush_directory, write_file
from m3etl.io.sources import LocalSource, Source
from m3etl.spec.modality import ArraySpec

__all__ = [
    "ChipStore",
    "SealedChip",
    "ShardAudit",
    "choose_shard_chips",
    "create_store",
    "dataset_id",
    "grow_store",
    "open_store",
    "read_stats",
    "seal_shard",
]

max_shards = 9_000  # of one array, so that its directory stays below 10,000 files
max_shard_bytes = 2_000_000_000
usual_shard_chips = 256
least_shard_chips = 16


def choose_shard_chips(planned_chips: int, specs: Sequence[ArraySpec], chip_m: float) -> int:
    """Chips per shard: a power of two, 256 for large plans, fewer for small ones so that about eight shards arise.

    No array exceeds 9,000 shards and no shard 2 GB; InputError where both cannot be had.
    """
    eighth = _power_of_two_from(planned_chips / 8)
    wanted = min(max(eighth, least_shard_chips), usual_shard_chips)
    needed = _power_of_two_from(planned_chips / max_shards)
    chip_bytes = max(
        (int(np.prod(spec.chip_shape(chip_m))) * np.dtype(spec.dtype).itemsize for spec in specs), default=1
    )
    most = max_shard_bytes // max(chip_bytes, 1)
    allowed = 1 << (most.bit_length() - 1) if most else 0
    if allowed < needed:
        raise InputError(
            f"{planned_chips} chips of up to {chip_bytes} bytes need over {max_shards} shards of 2 GB",
            hint="Use smaller chips or split the plan over several campaigns.",
        )
    return min(max(wanted, needed), allowed)


def create_store(
    path: Path, specs: Sequence[ArraySpec], *, chip_m: float, shard_chips: int, codec: str = "zstd"
) -> StoreLayout:
    """A store with these arrays and no rows. One that exists keeps its rows and gains the arrays that are new.

    InputError where an existing store has another chip size, shard size or codec, or declares an array otherwise.
    """
    wanted = StoreLayout(
        specs={spec.name: spec for spec in specs}, rows=0, chip_m=chip_m, shard_chips=shard_chips, codec=codec
    )
    if not (path / "zarr.json").exists():
        _write_documents(path, wanted, None)
        return wanted
    found = read_layout(path)
    _check_same(path, found, wanted)
    grown = replace(found, specs={**found.specs, **wanted.specs})
    if list(grown.specs) != list(found.specs):
        _write_documents(path, grown, found)
    return grown


def grow_store(path: Path, rows: int, superseded: Sequence[int] = ()) -> StoreLayout:
    """Let the chip dimension of every array reach `rows`: arrays first, the root last, each document by rename.

    superseded: rows that do not count any more, as their chips have others. Readers with the old metadata stay correct.
    Growing to the same rows does nothing; InputError for fewer rows.
    """
    found = read_layout(path)
    if rows < found.rows:
        raise InputError(f"the store {path} has {found.rows} rows and cannot shrink to {rows}")
    grown = replace(found, rows=rows, superseded=tuple(sorted({*found.superseded, *superseded})))
    if grown != found:
        _write_documents(path, grown, found)
    return grown


def open_store(place: Path | str) -> ChipStore:
    """The store for reading, as its root metadata is now: a directory, or a URL such as s3://bucket/folder/chips.zarr.

    InputError without a store, DamagedError if unreadable, RemoteError where the other side fails.
    """
    source = _source_of(place)
    where = source.where("").rstrip("/")
    try:
        content = source.read("zarr.json")
    except FileNotFoundError as error:
        raise no_store(where) from error
    return ChipStore(source, parse_layout(content, source.where("zarr.json")))


def read_stats(place: Path | str) -> dict[str, Any]:
    """stats.json, a file or a URL, as a mapping; InputError where it is missing, DamagedError if it is no object."""
    folder, _, name = str(place).rpartition("/")
    path = place
    try:
        found = json.loads(_source_of(folder or ".").read(name))
    except FileNotFoundError as error:
        raise InputError(f"there are no statistics at {path}", hint="Run `m3etl normalize` first.") from error
    except (OSError, ValueError) as error:
        raise DamagedError(f"cannot read {path}: {error}", hint="Run `m3etl normalize` again.") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} does not hold an object", hint="Run `m3etl normalize` again.")
    return found


def _source_of(place: Path | str) -> Source:
    if "://" not in str(place):
        return LocalSource(Path(place))
    from m3etl.io.remote import open_source

    return open_source(str(place))


def _check_same(path: Path, found: StoreLayout, wanted: StoreLayout) -> None:
    names = ("chip_m", "shard_chips", "codec")
    problems = [
        f"{name} is {getattr(found, name)} and not {getattr(wanted, name)}"
        for name in names
        if getattr(found, name) != getattr(wanted, name)
    ]
    problems += [
        f"array {name} is declared otherwise"
        for name, spec in wanted.specs.items()
        if name in found.specs and found.specs[name].digest() != spec.digest()
    ]
    if problems:
        raise InputError(
            f"the store {path} does not fit the campaign: " + "; ".join(problems),
            hint="A changed declaration is another array: give it a new name, or start a new campaign.",
        )


def _write_documents(path: Path, layout: StoreLayout, old: StoreLayout | None) -> None:
    """Write what has changed: arrays, then groups, then the root, each kind durable before the next."""
    before = {} if old is None else documents(old)
    changed = {name: document for name, document in documents(layout).items() if before.get(name) != document}
    stages = itertools.groupby(changed, key=lambda name: (changed[name]["node_type"], name == ""))
    try:
        with ThreadPoolExecutor(flush_threads) as pool:
            for _, names in stages:
                list(pool.map(lambda name: _write_document(path / name, layout, changed[name]), names))
    except OSError as error:
        raise InputError(
            f"cannot write the store {path}: {error.strerror}", hint="Free some space or make the directory writable."
        ) from error


def _write_document(directory: Path, layout: StoreLayout, document: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if directory.name in ("period", "band", "feature"):
        labels = labels_of(layout.specs[directory.parent.name])
        write_file(directory / "c.0", encode_text(labels[directory.name]))
    write_file(directory / "zarr.json", json.dumps(document, indent=1).encode())
    flush_directory(directory)


def _power_of_two_from(count: float) -> int:
    return 1 << max(0, int(np.ceil(count)) - 1).bit_length()
