"""The shard file of Zarr v3 (`sharding_indexed`, index at the end): chunk encoding, streaming writer, range reader.

Format: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from m3etl.errors import DamagedError, InputError
from m3etl.io.frames import encode_planes, is_planar, pack_planes

blosc.use_threads = False  # the frame depends on the number of threads inside; our own threads work on whole chunks

Array = npt.NDArray[Any]

codec_names = ("zstd", "fast", "none")
missing_mark = 2**64 - 1  # offset and length of a chunk that is all fill, by the specification
checksum_bytes = 4
write_buffer_bytes = 1 << 20  # chunks of coarse layers are small; the system is called once for many
whole_residue = 0x48674BC7  # crc32c of any data followed by its own crc32c: one pass checks a chunk without a copy
least_chunk_bytes = {True: 16 + checksum_bytes, False: checksum_bytes}  # by compressed: a blosc header has 16 bytes
_unpack_size = struct.Struct("<I").unpack_from
_compressors = {"zstd": ("zstd", 3), "fast": ("lz4", 5)}  # levels: measured best ratio per decoding second


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCodec:
    """How one chunk becomes bytes: little-endian values, blosc (byte shuffle for 16 bits and more), crc32c.

    profile: zstd (blosc zstd 3), fast (blosc lz4 5) or none (no compression); every profile ends with the checksum.
    """

    profile: str
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        if self.profile not in codec_names:
            raise InputError(f"unknown codec: {self.profile}", hint=f"Known codecs: {', '.join(codec_names)}.")

    def metadata(self) -> list[dict[str, Any]]:
        """The codec list as Zarr v3 metadata."""
        endian = {} if self.dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
        codecs: list[dict[str, Any]] = [{"name": "bytes", **endian}]
        if self.profile in _compressors:
            name, level = _compressors[self.profile]
            configuration = {
                "typesize": self.dtype.itemsize,
                "cname": name,
                "clevel": level,
                "shuffle": "shuffle" if self.dtype.itemsize > 1 else "noshuffle",
                "blocksize": 0,
            }
            codecs.append({"name": "blosc", "configuration": configuration})
        return [*codecs, {"name": "crc32c"}]

    def encode(self, values: Array) -> bytes:
        """`values` (any shape) as one chunk with its checksum; the same bytes for the same values."""
        little = np.ascontiguousarray(values, dtype=self.dtype.newbyteorder("<"))
        if self.profile == "zstd" and is_planar(self.dtype, little.nbytes):
            return pack_planes(little) or _with_checksum(encode_planes(little))
        if self.profile in _compressors:
            name, level = _compressors[self.profile]
            shuffle = blosc.SHUFFLE if self.dtype.itemsize > 1 else blosc.NOSHUFFLE
            return _with_checksum([blosc.compress(little, name.encode(), level, shuffle, 0, self.dtype.itemsize)])
        return _with_checksum([little.tobytes()])

    def decode_into(self, chunk: bytes, values: Array) -> None:
        """Write the chunk's values into `values` (C-contiguous, of the codec's dtype); ValueError if damaged."""
        compressed = self.profile in _compressors
        if len(chunk) < least_chunk_bytes[compressed] or google_crc32c.value(chunk) != whole_residue:
            raise ValueError("its checksum is wrong")
        size = _unpack_size(chunk, 4)[0] if compressed else len(chunk) - checksum_bytes  # bytes 4-7 of a blosc header
        if size != values.nbytes:
            raise ValueError(f"it holds {size} bytes of values, expected {values.nbytes}")
        if not compressed:
            values.reshape(-1).view(np.uint8)[:] = np.frombuffer(chunk, np.uint8, size)
            return
        try:
            blosc.decompress(chunk, values)  # the header says where the frame ends, before the checksum
        except RuntimeError as error:
            raise ValueError(f"it cannot be decompressed ({error})") from error


def checksum(data: bytes) -> bytes:
    """crc32c of `data` as four little-endian bytes."""
    return struct.pack("<I", google_crc32c.value(data))


def _with_checksum(parts: Sequence[bytes]) -> bytes:
    total = reduce(google_crc32c.extend, parts, 0)
    return b"".join([*parts, struct.pack("<I", total)])


class ShardWriter:
    """Streams encoded chunks into a temporary file; `close` appends the index and flushes, `publish` gives it its name.

    The temporary name is fixed, so that what a killed process left behind is overwritten by the next attempt.
    """

    def __init__(self, path: Path, chunk_count: int) -> None:
        self.path = path
        self._temporary = temporary_of(path)
        self._index = np.full((chunk_count, 2), missing_mark, dtype="<u8")
        self._file: Any = None
        self._position = 0

    def open(self) -> None:
        """Start the temporary file."""
        self._file = self._temporary.open("wb", buffering=write_buffer_bytes)

    def append(self, position: int, chunk: bytes) -> None:
        """Add the encoded chunk of `position`; positions never added stay missing."""
        self._file.write(chunk)
        self._index[position] = (self._position, len(chunk))
        self._position += len(chunk)

    def close(self) -> None:
        """Append index and checksum and flush all to the disk; the file has not its name yet."""
        index = self._index.tobytes()
        self._file.write(index + checksum(index))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def publish(self) -> None:
        """Give the finished file its name."""
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Remove the temporary file, if there is one."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing writes what is buffered, which a full disk refuses again
                self._file.close()
            self._file = None
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


class ShardFile:
    """One shard file opened for reading: index in memory, chunks read by ranges. Safe to use from many threads.

    index: offset and length of each chunk, (chunk_count, 2), where it is known from an earlier opening.
    """

    __slots__ = ("_descriptor", "index", "path")

    def __init__(self, path: Path, chunk_count: int, index: Array | None = None) -> None:
        self.path = path
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.index = read_index(path, self._descriptor, chunk_count) if index is None else index
        except BaseException:
            self.close()
            raise

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which chunks are stored: bool (chunk_count,); the others are all fill."""
        return np.asarray(self.index[:, 0] != missing_mark)

    def read(self, position: int) -> bytes | None:
        """The encoded chunk of `position`, None where it is all fill."""
        offset, length = self.index[position].tolist()
        return None if offset == missing_mark else os.pread(self._descriptor, length, offset)

    def advise(self, position: int) -> None:
        """Ask the kernel to read this chunk ahead."""
        offset, length = self.index[position].tolist()
        if offset != missing_mark and hasattr(os, "posix_fadvise"):  # macOS has none
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Give the file back; reading is over."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def temporary_of(path: Path) -> Path:
    """Where a file that will be `path` is written first."""
    return path.with_name(f".{path.name}.tmp")


def write_file(path: Path, content: bytes) -> None:
    """Write a small file under its temporary name, flush it to the disk and rename it."""
    write_temporary(path, content)
    temporary_of(path).replace(path)


def write_temporary(path: Path, content: bytes) -> None:
    """Write what will be `path` under its temporary name and flush it to the disk; nothing stays where that fails."""
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def flush_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_index(path: Path | str, descriptor: int, chunk_count: int) -> Array:
    """Offset and length of each chunk, (chunk_count, 2), from the end of an open file; DamagedError names `path`."""
    size = os.fstat(descriptor).st_size
    index_bytes = 16 * chunk_count
    start = size - index_bytes - checksum_bytes
    if start < 0:
        raise DamagedError(
            f"shard {path} is cut short: {size} bytes, its index alone needs {index_bytes + checksum_bytes}"
        )
    content = os.pread(descriptor, index_bytes + checksum_bytes, start)
    if checksum(content[:-checksum_bytes]) != content[-checksum_bytes:]:
        raise DamagedError(f"the index of shard {path} is damaged or cut short: its checksum is wrong")
    index = np.frombuffer(content, "<u8", count=2 * chunk_count).reshape(chunk_count, 2)
    stored = index[index[:, 0] != missing_mark]
    if stored.size and int((stored[:, 0] + stored[:, 1]).max()) > start:
        raise DamagedError(f"the index of shard {path} points beyond its end")
    return index
