"""The data set on disk, chips.zarr: create, grow and open it. Sealing is in `io.sealing`, metadata in `io.layout`."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.errors import DamagedError, InputError
from m3etl.io.columns import encode_text, read_column_chunk, repair_hint
from m3etl.io.identity import dataset_id
from m3etl.io.layout import StoreLayout, chip_columns, documents, read_layout, shard_path
from m3etl.io.sealing import SealedChip, checksum_of, seal_shard
from m3etl.io.shards import Array, ShardFile, flush_directory, write_file
from m3etl.spec.modality import ArraySpec, Shape

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
most_indexes = 65_536  # kept in memory, 4 KB each at the usual shard size; open files are limited by the system


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


def grow_store(path: Path, rows: int) -> StoreLayout:
    """Let the chip dimension of every array reach `rows`: arrays first, the root last, each document by rename.

    Readers with the old metadata stay correct. Growing to the same rows does nothing; InputError for fewer rows.
    """
    found = read_layout(path)
    if rows < found.rows:
        raise InputError(f"the store {path} has {found.rows} rows and cannot shrink to {rows}")
    grown = found.with_rows(rows)
    if rows > found.rows:
        _write_documents(path, grown, found)
    return grown


def open_store(path: Path) -> ChipStore:
    """The store for reading, as its root metadata is now. InputError without a store, DamagedError if unreadable."""
    return ChipStore(path, read_layout(path))


def read_stats(path: Path) -> dict[str, Any]:
    """stats.json as a mapping; InputError where it is missing, DamagedError where it is no JSON object."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"there are no statistics at {path}", hint="Run `m3etl normalize` first.") from error
    except (OSError, ValueError) as error:
        raise DamagedError(f"cannot read {path}: {error}", hint="Run `m3etl normalize` again.") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} does not hold an object", hint="Run `m3etl normalize` again.")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardAudit:
    """What a shard really holds. checksums: array -> chip_id -> sha256; damaged: a message per broken chip or file."""

    checksums: Mapping[str, Mapping[str, str]]
    damaged: tuple[str, ...]


class ChipStore:
    """Reads chips of a store as it was when opened. Safe to use from many threads and after a fork; can be pickled.

    rows: length of the chip dimension, padding included (its `chip_ids` are ""). specs: declarations by array name.
    """

    def __init__(self, path: Path, layout: StoreLayout) -> None:
        self.path = Path(path)
        self.layout = layout
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._files: dict[tuple[str, int], ShardFile] = {}
        self._vectors: dict[tuple[str, int], Array] = {}
        self._indexes: dict[tuple[str, int], Array] = {}
        self._most_files = min(4096, max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3))
        self._shard_chips = self.layout.shard_chips
        self._vector_names = {name for name, spec in self.layout.specs.items() if spec.shape is Shape.VECTOR}
        self._codecs = {name: self.layout.chunk_codec(name) for name in self.layout.specs}

    def __reduce__(self) -> tuple[Any, ...]:
        return ChipStore, (self.path, self.layout)

    @property
    def rows(self) -> int:
        """Length of the chip dimension."""
        return self.layout.rows

    @property
    def shard_chips(self) -> int:
        """Rows of one shard."""
        return self.layout.shard_chips

    @property
    def shard_count(self) -> int:
        """Shards that the rows reach into."""
        return self.layout.shard_count

    @property
    def chip_m(self) -> float:
        """Side of a chip in metres."""
        return self.layout.chip_m

    @property
    def specs(self) -> Mapping[str, ArraySpec]:
        """The declaration of each array."""
        return self.layout.specs

    @cached_property
    def chip_ids(self) -> npt.NDArray[np.str_]:
        """(rows,) names of the chips; "" in padding rows and rows not sealed yet."""
        return np.asarray(self._column("chip_id"))

    @cached_property
    def split(self) -> npt.NDArray[np.str_]:
        """(rows,) train, val, test or buffer."""
        return np.asarray(self._column("split"))

    @cached_property
    def lon(self) -> npt.NDArray[np.float64]:
        """(rows,) longitude of the centre in degrees; NaN in padding rows."""
        return np.asarray(self._column("lon"))

    @cached_property
    def lat(self) -> npt.NDArray[np.float64]:
        """(rows,) latitude of the centre in degrees; NaN in padding rows."""
        return np.asarray(self._column("lat"))

    @cached_property
    def epsg(self) -> npt.NDArray[np.int32]:
        """(rows,) EPSG code of the chip's grid; -1 in padding rows."""
        return np.asarray(self._column("epsg"))

    @cached_property
    def xmin(self) -> npt.NDArray[np.float64]:
        """(rows,) west edge in metres of the chip's grid."""
        return np.asarray(self._column("xmin"))

    @cached_property
    def ymax(self) -> npt.NDArray[np.float64]:
        """(rows,) north edge in metres of the chip's grid."""
        return np.asarray(self._column("ymax"))

    def read(self, array: str, rows: npt.ArrayLike, *, threads: int = 1) -> Array:
        """Stored values of `rows`, in their order: (len(rows), band, y, x) or (len(rows), feature) of the stored dtype.

        Raises InputError for an unknown array, IndexError for a row outside, DamagedError naming chip, array and file.
        """
        wanted = self._checked_rows(rows)
        values = np.empty((wanted.size, *self.chip_shape(array)), dtype=self.specs[array].dtype)
        return self.read_into(array, wanted, values, threads=threads)

    def read_into(self, array: str, rows: npt.ArrayLike, values: Array, *, threads: int = 1) -> Array:
        """As `read`, into `values`, whose slots must be C-contiguous and of the stored dtype."""
        wanted = self._checked_rows(rows)
        shape = (wanted.size, *self.chip_shape(array))
        if values.shape != shape or values.dtype != np.dtype(self.specs[array].dtype):
            raise ValueError(
                f"{array} needs a buffer {shape} of {self.specs[array].dtype}, found {values.shape} of {values.dtype}"
            )
        if threads <= 1 or wanted.size < 2:
            for slot, row in enumerate(wanted.tolist()):
                self.read_chip_into(array, row, values[slot])
            return values
        with ThreadPoolExecutor(threads) as pool:
            for done in [
                pool.submit(self.read_chip_into, array, row, values[slot]) for slot, row in enumerate(wanted.tolist())
            ]:
                done.result()
        return values

    def read_chip_into(self, array: str, row: int, values: Array) -> None:
        """Decode one chip straight into `values` (chip_shape, C-contiguous, stored dtype); fill where not observed."""
        shard, position = divmod(row, self._shard_chips)
        if array in self._vector_names:
            values[...] = self._vector_chunk(array, shard)[position]
            return
        file = self._shard_file(array, shard)
        chunk = None if file is None else file.read(position)
        if chunk is None:
            values[...] = self.specs[array].fill_value()
            return
        try:
            self._codecs[array].decode_into(chunk, values)
        except ValueError as error:
            chip_id = self.chip_ids[row]
            raise _damaged(
                f"{array} of chip {chip_id} (row {row})", self.shard_path(array, shard), str(error)
            ) from error

    def present(self, array: str) -> npt.NDArray[np.bool_]:
        """(rows,) whether anything at all was observed in this array; rasters are not decoded for it."""
        found = np.zeros(self.shard_count * self.shard_chips, dtype=np.bool_)
        spec = self.specs[self._known(array)]
        for shard in range(self.shard_count):
            part = found[shard * self.shard_chips : (shard + 1) * self.shard_chips]
            if spec.shape is Shape.VECTOR:
                values = self._vector_chunk(array, shard)
                part[:] = (~np.isnan(values) if spec.fill is None else values != spec.fill).any(axis=1)
            elif (file := self._shard_file(array, shard)) is not None:
                part[:] = file.present
        return found[: self.rows]

    def advise(self, array: str, row: int) -> None:
        """Ask the kernel to read the chip's chunk ahead; vectors are in memory anyway."""
        shard, position = divmod(row, self.shard_chips)
        if self.specs[array].shape is Shape.RASTER and (file := self._shard_file(array, shard)) is not None:
            file.advise(position)

    def chip_shape(self, array: str) -> tuple[int, ...]:
        """(band, y, x) or (feature,) of one chip; InputError for an unknown array."""
        return self.layout.chip_shape(self._known(array))

    def shard_path(self, array: str, shard: int) -> Path:
        """The file of one shard of one array."""
        return shard_path(self.path, self.layout, array, shard)

    def column_path(self, column: str, shard: int) -> Path:
        """The file of one chunk of a per-chip column such as `chip_id`."""
        return self.path / column / f"c.{shard}"

    def verify_shard(self, shard: int) -> ShardAudit:
        """Decode everything in one shard and say what is damaged, and the checksums of what is not."""
        checksums: dict[str, dict[str, str]] = {name: {} for name in self.specs}
        damaged: list[str] = []
        first = shard * self.shard_chips
        for array in self.specs:
            values = np.empty(self.chip_shape(array), dtype=self.specs[array].dtype)
            for row in range(first, min(first + self.shard_chips, self.rows)):
                chip_id = str(self.chip_ids[row])
                if not chip_id:
                    continue
                try:
                    self.read_chip_into(array, row, values)
                except DamagedError as error:
                    if error.message not in damaged:
                        damaged.append(error.message)
                else:
                    checksums[array][chip_id] = checksum_of(values)
        return ShardAudit(checksums=checksums, damaged=tuple(damaged))

    def close(self) -> None:
        """Forget open files and decoded vectors; reading again opens them again."""
        self._reset()

    def _known(self, array: str) -> str:
        if array not in self.specs:
            raise InputError(f"the store {self.path} has no array {array}", hint=f"It has: {', '.join(self.specs)}.")
        return array

    def _checked_rows(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        wanted = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.rows):
            raise IndexError(f"rows must lie in [0, {self.rows}), found {wanted.min()} to {wanted.max()}")
        return wanted

    def _shard_file(self, array: str, shard: int) -> ShardFile | None:
        if os.getpid() != self._pid:
            self._reset()
        file = self._files.get((array, shard))
        if file is not None:
            return file
        try:
            file = ShardFile(self.shard_path(array, shard), self.shard_chips, self._indexes.get((array, shard)))
        except FileNotFoundError:
            self._check_unsealed(array, shard)
            return None
        with self._lock:
            self._files[array, shard], self._indexes[array, shard] = file, file.index
            while len(self._files) > self._most_files:
                self._files.pop(next(iter(self._files)))  # closes when the last thread that reads it lets go
            while len(self._indexes) > most_indexes:
                self._indexes.pop(next(iter(self._indexes)))
        return file

    def _vector_chunk(self, array: str, shard: int) -> Array:
        if os.getpid() != self._pid:
            self._reset()
        found = self._vectors.get((array, shard))
        if found is not None:
            return found
        spec = self.specs[array]
        values = np.full((self.shard_chips, *self.chip_shape(array)), spec.fill_value(), dtype=spec.dtype)
        path = self.shard_path(array, shard)
        try:
            self._codecs[array].decode_into(path.read_bytes(), values)
        except FileNotFoundError:
            self._check_unsealed(array, shard)
            return values
        except ValueError as error:
            raise _damaged(f"{array} of {self._chips_of(shard)}", path, str(error)) from error
        self._vectors[array, shard] = values
        return values

    def _check_unsealed(self, array: str, shard: int) -> None:
        """A missing file is right as long as no chip of it was sealed; otherwise data has gone."""
        if (self.chip_ids[shard * self.shard_chips : (shard + 1) * self.shard_chips] != "").any():
            raise _damaged(f"{array} of {self._chips_of(shard)}", self.shard_path(array, shard), "the file is missing")

    def _chips_of(self, shard: int) -> str:
        names = self.chip_ids[shard * self.shard_chips : (shard + 1) * self.shard_chips]
        names = names[names != ""]
        return f"chips {names[0]} to {names[-1]}" if names.size else f"rows from {shard * self.shard_chips}"

    def _column(self, name: str) -> Any:
        parts = [
            read_column_chunk(self.layout, name, self.column_path(name, shard)) for shard in range(self.shard_count)
        ]
        if not parts:
            return np.empty(0, dtype=np.str_ if chip_columns[name] == "string" else chip_columns[name])
        return np.concatenate(parts)[: self.rows]


def _damaged(what: str, path: Path, reason: str) -> DamagedError:
    return DamagedError(f"cannot read {what}: {path}: {reason}", hint=repair_hint)


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
    before = {} if old is None else documents(old)
    try:
        for name, document in documents(layout).items():
            if before.get(name) == document:
                continue
            directory = path / name
            directory.mkdir(parents=True, exist_ok=True)
            if directory.name in ("band", "feature"):
                write_file(directory / "c.0", encode_text(layout.specs[directory.parent.name].bands))
            write_file(directory / "zarr.json", json.dumps(document, indent=1).encode())
            flush_directory(directory)
    except OSError as error:
        raise InputError(
            f"cannot write the store {path}: {error.strerror}", hint="Free some space or make the directory writable."
        ) from error


def _power_of_two_from(count: float) -> int:
    return 1 << max(0, int(np.ceil(count)) - 1).bit_length()
