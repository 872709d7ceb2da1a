"""Sealing: chips become the files of one shard, compressed in threads, streamed, and named only when whole."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from m3etl.errors import DamagedError, InputError
from m3etl.io.columns import repair_hint, write_column_chunk
from m3etl.io.layout import StoreLayout, chip_columns, read_layout, shard_path
from m3etl.io.shards import Array, ChunkCodec, ShardFile, ShardWriter, flush_directory, temporary_of, write_temporary
from m3etl.io.workers import usable_cores
from m3etl.spec.modality import ArraySpec, Shape

most_threads = 16
flush_threads = 16  # waiting for the disk costs no processor; the disk serves many flushes at once
Encoded = tuple[str, bytes | None]  # checksum of the values; what is stored, None where all is fill


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedChip:
    """One chip ready to be stored. row: place in the store; lon, lat: centre in degrees; xmin, ymax: metres in `epsg`.

    arrays: values by array name, of the stored dtype and the array's chip_shape; an array that is absent stays fill.
    """

    row: int
    chip_id: str
    lon: float
    lat: float
    epsg: int
    xmin: float
    ymax: float
    split: str
    arrays: Mapping[str, Array]


def seal_shard(
    path: Path,
    shard: int,
    chips: Iterable[SealedChip],
    *,
    arrays: Sequence[str] | None = None,
    layout: StoreLayout | None = None,
    threads: int = 0,
) -> dict[str, dict[str, str]]:
    """Write all files of one shard and return array -> chip_id -> sha256 of the stored values (little-endian, C order).

    chips: of this shard; a sequence in any order, or an iterator in ascending row order, which is streamed, so that few
    chips are in memory at a time. arrays: seal these only (a modality added later); all arrays of the store by default.
    layout: of the store as it will be, for arrays that its metadata does not name yet. Every file is flushed and then
    renamed, `chip_id` last. Files that are there are kept; DamagedError where they hold other values. InputError where
    a chip does not fit or the disk refuses.
    """
    layout = layout or read_layout(path)
    names = list(layout.specs) if arrays is None else list(arrays)
    unknown = [name for name in names if name not in layout.specs]
    if unknown:
        raise InputError(
            f"the store {path} has no array {', '.join(unknown)}", hint=f"It has: {', '.join(layout.specs)}."
        )
    sealing = _Sealing(path, layout, shard, names)
    try:
        threads = threads or min(most_threads, usable_cores())
        with ThreadPoolExecutor(threads, "m3etl-seal") as pool:
            sealing.take(_in_order(chips), pool, most_waiting=2 * threads)
        with ThreadPoolExecutor(flush_threads, "m3etl-flush") as pool:
            sealing.publish(pool)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "Free some space or make the directory writable, then run again."
        raise InputError(f"cannot seal shard {shard} of {path}: {reason}", hint=hint) from error
    finally:
        sealing.discard()
    return sealing.checksums


def checksum_of(values: Array) -> str:
    """sha256 of the values, little-endian, C order."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data.cast("B")).hexdigest()


class _Sealing:
    """The state of sealing one shard: a sink per array, the columns, and the checksums so far."""

    def __init__(self, path: Path, layout: StoreLayout, shard: int, names: Sequence[str]) -> None:
        self.layout = layout
        self.shard = shard
        self.path = path
        self.sinks: dict[str, _Sink] = {}
        self.names = names
        self.checksums: dict[str, dict[str, str]] = {name: {} for name in names}
        self.columns: dict[str, dict[int, Any]] = {name: {} for name in chip_columns}

    def take(self, chips: Iterator[SealedChip], pool: ThreadPoolExecutor, *, most_waiting: int) -> None:
        """Check, encode and append every chip; at most a few wait for their turn."""
        for name in self.names:
            self.sinks[name] = _make_sink(self.path, self.layout, self.layout.specs[name], self.shard)
        waiting: deque[tuple[str, int, Future[dict[str, Encoded]]]] = deque()
        for chip in chips:
            position = self._position(chip)
            values = {name: self._checked(chip, name) for name in self.names}
            waiting.append((chip.chip_id, position, pool.submit(self._encode, values)))
            while len(waiting) > most_waiting or (waiting and waiting[0][2].done()):
                self._append(*waiting.popleft())
        while waiting:
            self._append(*waiting.popleft())

    def publish(self, pool: ThreadPoolExecutor) -> None:
        """Name the arrays' files, then the columns, then `chip_id`, each step durable before the next."""
        sinks = list(self.sinks.values())
        _all_done(pool.submit(sink.close) for sink in sinks)
        for sink in sinks:
            sink.publish()
        _all_done(pool.submit(flush_directory, sink.path.parent) for sink in sinks)
        *others, last = self.columns
        _all_done(pool.submit(self._write_column, name) for name in others)
        self._write_column(last)

    def discard(self) -> None:
        """Remove temporary files that were not published."""
        for sink in self.sinks.values():
            sink.discard()

    def _encode(self, values: Mapping[str, Array | None]) -> dict[str, Encoded]:
        return {name: self.sinks[name].encode(part) for name, part in values.items()}

    def _append(self, chip_id: str, position: int, future: Future[dict[str, Encoded]]) -> None:
        for name, encoded in future.result().items():
            self.sinks[name].append(position, encoded)
            self.checksums[name][chip_id] = encoded[0]

    def _write_column(self, name: str) -> None:
        write_column_chunk(self.layout, name, self.path / name / f"c.{self.shard}", self.columns[name])

    def _position(self, chip: SealedChip) -> int:
        shard, position = divmod(chip.row, self.layout.shard_chips)
        if shard != self.shard or not chip.chip_id:
            raise InputError(f"chip {chip.chip_id!r} of row {chip.row} does not belong to shard {self.shard}")
        for name in chip_columns:
            self.columns[name][position] = getattr(chip, name)
        return position

    def _checked(self, chip: SealedChip, name: str) -> Array | None:
        values = chip.arrays.get(name)
        if values is None:
            return None
        shape, dtype = self.layout.chip_shape(name), np.dtype(self.layout.specs[name].dtype)
        if values.shape != shape or values.dtype != dtype:
            raise InputError(
                f"{name} of chip {chip.chip_id} is {values.dtype} {values.shape}; the store needs {dtype} {shape}"
            )
        return values


class _Sink(Protocol):
    """Where the chips of one array go. `encode` runs in threads; the rest in the order of the chips."""

    path: Path

    def encode(self, values: Array | None) -> Encoded: ...

    def append(self, position: int, encoded: Encoded) -> None: ...

    def close(self) -> None: ...

    def publish(self) -> None: ...

    def discard(self) -> None: ...


class _Filled:
    """The fill of one array, to recognise chips that hold nothing else."""

    def __init__(self, spec: ArraySpec, shape: tuple[int, ...]) -> None:
        self.values = np.full(shape, spec.fill_value(), dtype=spec.dtype)
        self.digest = checksum_of(self.values)
        self._nan = spec.fill is None

    def equals(self, values: Array | None) -> bool:
        """Whether nothing was observed; one look at the first and the last number settles nearly all chips."""
        if values is None:
            return True
        ends = values.flat[0], values.flat[-1]
        if any(not np.isnan(end) if self._nan else end != self.values.flat[0] for end in ends):
            return False
        return bool((np.isnan(values) if self._nan else values == self.values).all())


class _RasterSink:
    """Chunks of pictures streamed into a new shard file."""

    def __init__(self, path: Path, codec: ChunkCodec, filled: _Filled, chunk_count: int) -> None:
        self.path = path
        self._codec = codec
        self._filled = filled
        self._writer = ShardWriter(path, chunk_count)
        self._writer.open()

    def encode(self, values: Array | None) -> Encoded:
        if values is None or self._filled.equals(values):
            return self._filled.digest, None
        return checksum_of(values), self._codec.encode(values)

    def append(self, position: int, encoded: Encoded) -> None:
        if encoded[1] is not None:
            self._writer.append(position, encoded[1])

    def close(self) -> None:
        self._writer.close()

    def publish(self) -> None:
        self._writer.publish()

    def discard(self) -> None:
        self._writer.discard()


class _VectorSink:
    """Vectors of a whole shard, written as one chunk."""

    def __init__(self, path: Path, codec: ChunkCodec, filled: _Filled, chunk_count: int) -> None:
        self.path = path
        self._codec = codec
        self._filled = filled
        self._values = np.stack([filled.values] * chunk_count)

    def encode(self, values: Array | None) -> Encoded:
        if values is None or self._filled.equals(values):
            return self._filled.digest, None
        return checksum_of(values), np.ascontiguousarray(values).tobytes()

    def append(self, position: int, encoded: Encoded) -> None:
        if encoded[1] is not None:
            self._values[position] = np.frombuffer(encoded[1], self._values.dtype)

    def close(self) -> None:
        write_temporary(self.path, self._codec.encode(self._values))

    def publish(self) -> None:
        temporary_of(self.path).replace(self.path)

    def discard(self) -> None:
        temporary_of(self.path).unlink(missing_ok=True)


class _SealedSink:
    """A file that is there already: its chips must be the ones given now."""

    def __init__(self, path: Path, codec: ChunkCodec, filled: _Filled, chunk_count: int, *, vector: bool) -> None:
        self.path = path
        self._filled = filled
        self._digests = _stored_digests(path, codec, filled, chunk_count, vector=vector)

    def encode(self, values: Array | None) -> Encoded:
        return (self._filled.digest if values is None or self._filled.equals(values) else checksum_of(values)), None

    def append(self, position: int, encoded: Encoded) -> None:
        if self._digests.pop(position, self._filled.digest) != encoded[0]:
            self._refuse(f"other values at place {position}")

    def close(self) -> None:
        if self._digests:
            self._refuse(f"chips that are not given now, at places {sorted(self._digests)}")

    def publish(self) -> None:
        return None

    def discard(self) -> None:
        return None

    def _refuse(self, reason: str) -> None:
        hint = "A sealed shard is never rewritten; use a new generation."
        raise DamagedError(f"{self.path} is sealed with {reason}", hint=hint)


def _stored_digests(
    path: Path, codec: ChunkCodec, filled: _Filled, chunk_count: int, *, vector: bool
) -> dict[int, str]:
    """Checksum of every chip of a finished file that is not all fill, by its place."""
    try:
        if vector:
            values = np.stack([filled.values] * chunk_count)
            codec.decode_into(path.read_bytes(), values)
            return {place: checksum_of(chip) for place, chip in enumerate(values) if not filled.equals(chip)}
        file = ShardFile(path, chunk_count)
        digests = {}
        values = np.empty_like(filled.values)
        for place in np.flatnonzero(file.present).tolist():
            codec.decode_into(file.read(place) or b"", values)
            digests[place] = checksum_of(values)
        return digests
    except ValueError as error:
        raise DamagedError(f"cannot read the sealed file {path}: {error}", hint=repair_hint) from error


def _make_sink(path: Path, layout: StoreLayout, spec: ArraySpec, shard: int) -> _Sink:
    file = shard_path(path, layout, spec.name, shard)
    codec, filled = layout.chunk_codec(spec.name), _Filled(spec, layout.chip_shape(spec.name))
    vector = spec.shape is Shape.VECTOR
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        return _SealedSink(file, codec, filled, layout.shard_chips, vector=vector)
    kind = _VectorSink if vector else _RasterSink
    return kind(file, codec, filled, layout.shard_chips)


def _all_done(futures: Iterable[Future[None]]) -> None:
    """Wait for all; the first error, if any, is raised."""
    for future in list(futures):
        future.result()


def _in_order(chips: Iterable[SealedChip]) -> Iterator[SealedChip]:
    if isinstance(chips, Sequence):
        chips = sorted(chips, key=lambda chip: chip.row)
    last = -1
    for chip in chips:
        if chip.row <= last:
            raise InputError(
                f"chips must come in ascending row order; {chip.chip_id} of row {chip.row} follows row {last}"
            )
        last = chip.row
        yield chip
