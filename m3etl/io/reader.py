"""Reading chips of a store: indexes parsed once, chunks decoded straight into their places, damage named exactly."""

from __future__ import annotations

import os
import resource
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.errors import DamagedError, InputError
from m3etl.io.chiptable import ChipTable
from m3etl.io.columns import repair_hint
from m3etl.io.decoding import BadChunkError, Chunk, decode
from m3etl.io.layout import StoreLayout, shard_path
from m3etl.io.sealing import checksum_of
from m3etl.io.shards import Array, missing_mark
from m3etl.io.sources import LocalSource, OpenShard, Source
from m3etl.spec.modality import ArraySpec, Shape

most_indexes = 65_536  # kept in memory, 4 KB each at the usual shard size; open files are limited by the system
piece_rows = 8  # that one thread decodes at a time: short enough to share a batch, long enough to be cheap


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardAudit:
    """What a shard really holds. checksums: array -> chip_id -> sha256; damaged: a message per broken chip or file."""

    checksums: Mapping[str, Mapping[str, str]]
    damaged: tuple[str, ...]


class ChipStore(ChipTable):
    """Reads chips of a store as it was when opened. Safe to use from many threads and after a fork; can be pickled.

    rows: length of the chip dimension, padding included (its `chip_ids` are ""). specs: declarations by array name.
    Arrays with periods are read as (band, y, x), the bands of all periods one after the other, as `specs` names them.
    """

    def __init__(self, source: Source, layout: StoreLayout) -> None:
        super().__init__(source, layout)
        self._shard_chips = layout.shard_chips
        self._codecs = {name: layout.chunk_codec(name) for name in layout.specs}
        self._vector_names = {name for name, spec in layout.specs.items() if spec.shape is Shape.VECTOR}
        self._fills = {name: spec.fill_value() for name, spec in layout.specs.items()}
        self._sizes = {
            name: int(np.prod(layout.chip_shape(name))) * np.dtype(spec.dtype).itemsize
            for name, spec in layout.specs.items()
        }
        self._most_files = min(4096, max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3))
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._files: dict[tuple[str, int], OpenShard] = {}
        self._vectors: dict[tuple[str, int], Array] = {}
        self._indexes: dict[tuple[str, int], Array] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ChipStore, (self.source, self.layout)

    @property
    def path(self) -> Path:
        """The directory of the store; InputError for one that is read from elsewhere."""
        if not isinstance(self.source, LocalSource):
            raise InputError(f"{self.source.where('')} is no directory of this machine", hint="Download it first.")
        return self.source.root

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
        starts = range(0, wanted.size, piece_rows)
        if threads <= 1 or len(starts) < 2:
            self.read_rows(wanted.tolist(), {array: values})
            return values
        with ThreadPoolExecutor(threads) as pool:
            pieces = [slice(start, start + piece_rows) for start in starts]
            list(pool.map(lambda piece: self.read_rows(wanted[piece].tolist(), {array: values[piece]}), pieces))
        return values

    def read_rows(self, rows: Sequence[int], values: Mapping[str, Array]) -> None:
        """Decode chips of several arrays at once: row `rows[k]` goes to `values[array][k]`, C-contiguous, stored dtype.

        The rows are not checked; DamagedError names chip, array and file.
        """
        if os.getpid() != self._pid:
            self._reset()
        work: list[Chunk] = []
        for array, target in values.items():
            if len(target) < len(rows) or (rows and target[0].nbytes != self._sizes[array]):
                raise ValueError(f"{array} needs {len(rows)} slots of {self._sizes[array]} bytes, found {target.shape}")
            if array in self._vector_names:
                for slot, row in enumerate(rows):
                    shard, position = divmod(row, self._shard_chips)
                    target[slot] = self._vector_chunk(array, shard)[position]
            else:
                self._list_chunks(work, array, rows, target)
        with self._fetched(work):
            self._decode(work)

    def read_chip_into(self, array: str, row: int, values: Array) -> None:
        """Decode one chip straight into `values` (chip_shape, C-contiguous, stored dtype); fill where not observed."""
        self.read_rows((row,), {array: values[None]})

    def present(self, array: str) -> npt.NDArray[np.bool_]:
        """(rows,) whether anything at all was observed in this array; rasters are not decoded for it."""
        found = np.zeros(self.shard_count * self.shard_chips, dtype=np.bool_)
        spec = self.specs[self._known(array)]

        def look(shard: int) -> None:
            part = found[shard * self.shard_chips : (shard + 1) * self.shard_chips]
            if spec.shape is Shape.VECTOR:
                values = self._vector_chunk(array, shard)
                part[:] = (~np.isnan(values) if spec.fill is None else values != spec.fill).any(axis=1)
            elif (file := self._shard_file(array, shard)) is not None:
                part[:] = file.present

        self.source.map(look, range(self.shard_count))
        return found[: self.rows]

    def prefetch(self, arrays: Sequence[str], rows: Sequence[int]) -> None:
        """Begin to have the chunks of these rows at hand, which opens their shards and reads their vectors."""
        positions: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            positions[row // self._shard_chips].append(row % self._shard_chips)

        def open_one(pair: tuple[str, int]) -> OpenShard | None:
            if pair[0] not in self._vector_names:
                return self._shard_file(*pair)
            self._vector_chunk(*pair)
            return None

        pairs = [(array, shard) for array in arrays for shard in positions]
        files = self.source.map(open_one, pairs)
        self.source.prefetch(
            [(file, positions[shard]) for (_, shard), file in zip(pairs, files, strict=True) if file is not None]
        )

    def chip_shape(self, array: str) -> tuple[int, ...]:
        """(band, y, x) or (feature,) of one chip; InputError for an unknown array."""
        return self.layout.chip_shape(self._known(array))

    def chip_bytes(self, array: str) -> int:
        """Bytes of the decoded values of one chip."""
        return self._sizes[self._known(array)]

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

    def _list_chunks(self, work: list[Chunk], array: str, rows: Sequence[int], target: Array) -> None:
        """Add the chunks of one array to the work; what was not observed is filled at once."""
        if rows and not (target[0].flags.c_contiguous and target.flags.writeable):
            raise ValueError(f"the slots for {array} must be contiguous and writeable")  # machine code writes to them
        size, address, stride = self._sizes[array], target.ctypes.data, target.strides[0]
        for slot, row in enumerate(rows):
            shard, position = divmod(row, self._shard_chips)
            file = self._files.get((array, shard)) or self._shard_file(array, shard)
            if file is None or (offset := file.extents[position, 0]) == missing_mark:
                target[slot] = self._fills[array]
            else:
                length = file.extents[position, 1]
                work.append((array, row, file, offset, length, target, slot, address + slot * stride, size))

    @contextmanager
    def _fetched(self, work: Sequence[Chunk]) -> Iterator[None]:
        """The chunks of a remote store are in the local copies of their shards, until the end of the block."""
        wanted: dict[OpenShard, list[Chunk]] = defaultdict(list)
        for chunk in work if self.source.is_remote else ():
            wanted[chunk[2]].append(chunk)
        with ExitStack() as held:
            for file, chunks in wanted.items():
                held.callback(file.release)
                try:
                    file.fetch([chunk[1] % self._shard_chips for chunk in chunks])
                except DamagedError as error:
                    raise self._damaged_chip(chunks[0][0], chunks[0][1], file.where, error.message) from error
            yield

    def _decode(self, work: Sequence[Chunk]) -> None:
        """Decode all chunks; one that is bad is fetched once more where it came from elsewhere."""
        fetched: set[int] = set()
        while True:
            try:
                decode(work, self._codecs, compressed=self.layout.codec != "none")
            except BadChunkError as error:
                array, row, file, *_ = work[error.number]
                if error.number in fetched or not file.fetch_again(row % self._shard_chips):
                    raise self._damaged_chip(array, row, file.where, str(error)) from error
                fetched.add(error.number)
            else:
                return

    def unknown_arrays(self, names: Sequence[str]) -> InputError:
        """What to raise when arrays are asked for that are not there, or none at all."""
        asked = f"the store {self.source.where('')} has no array {', '.join(names)}" if names else "no array was named"
        return InputError(asked, hint=f"It has: {', '.join(self.specs)}.")

    def _known(self, array: str) -> str:
        if array not in self.specs:
            raise self.unknown_arrays([array])
        return array

    def _checked_rows(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        wanted = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.rows):
            raise IndexError(f"rows must lie in [0, {self.rows}), found {wanted.min()} to {wanted.max()}")
        return wanted

    def _shard_file(self, array: str, shard: int) -> OpenShard | None:
        if os.getpid() != self._pid:
            self._reset()
        file = self._files.get((array, shard))
        if file is not None:
            return file
        key = self._shard_key(array, shard)
        try:
            file = self.source.open_shard(key, self.shard_chips, self._indexes.get((array, shard)))
        except FileNotFoundError:
            self._check_unsealed(array, shard)
            return None
        except DamagedError as error:
            raise _damaged(f"{array} of {self._chips_of(shard)}", error.message) from error
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
        values = np.full((self.shard_chips, *self.chip_shape(array)), self._fills[array], self.specs[array].dtype)
        key = self._shard_key(array, shard)
        try:
            self._codecs[array].decode_into(self.source.read(key), values)
        except FileNotFoundError:
            self._check_unsealed(array, shard)
            return values
        except ValueError as error:
            raise _damaged(f"{array} of {self._chips_of(shard)}", f"{self.source.where(key)}: {error}") from error
        self._vectors[array, shard] = values
        return values

    def _check_unsealed(self, array: str, shard: int) -> None:
        """A missing file is right as long as no chip of it was sealed; otherwise data has gone."""
        if any(self.names_of(shard)):
            where = self.source.where(self._shard_key(array, shard))
            raise _damaged(f"{array} of {self._chips_of(shard)}", f"{where}: the file is missing")

    def _damaged_chip(self, array: str, row: int, where: str, reason: str) -> DamagedError:
        shard, position = divmod(row, self._shard_chips)
        return _damaged(f"{array} of chip {self.names_of(shard)[position]} (row {row})", f"{where}: {reason}")

    def _chips_of(self, shard: int) -> str:
        names = [name for name in self.names_of(shard) if name]
        return f"chips {names[0]} to {names[-1]}" if names else f"rows from {shard * self.shard_chips}"

    def _shard_key(self, array: str, shard: int) -> str:
        return PurePosixPath(shard_path(Path(), self.layout, array, shard)).as_posix()


def _damaged(what: str, reason: str) -> DamagedError:
    return DamagedError(f"cannot read {what}: {reason}", hint=repair_hint)
