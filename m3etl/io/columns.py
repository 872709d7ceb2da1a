"""The per-chip columns at the root of a store (chip_id, lon, lat, ...): one chunk file a shard, handled whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import VLenUTF8

from m3etl.errors import DamagedError
from m3etl.io.layout import StoreLayout, chip_columns, missing_epsg
from m3etl.io.shards import Array, ChunkCodec, checksum, checksum_bytes, flush_directory, write_file

repair_hint = "Run `m3etl validate` for a list; restore the file from a copy, or remove it and run `m3etl tile` again."


def read_column_chunk(layout: StoreLayout, name: str, path: Path) -> Array:
    """One chunk of column `name`, (shard_chips,); all fill without a file; DamagedError where it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = None
    return decode_column_chunk(layout, name, content, str(path))


def decode_column_chunk(layout: StoreLayout, name: str, content: bytes | None, where: str) -> Array:
    """As `read_column_chunk`, from the content of the file `where`; None means that there is no file."""
    kind = chip_columns[name]
    values = _empty_column(layout, kind)
    if content is None:
        return values
    try:
        if kind == "string":
            return _decode_text(content, layout.shard_chips)
        ChunkCodec(profile=layout.codec, dtype=values.dtype).decode_into(content, values)
    except ValueError as error:
        raise _damaged_column(name, where, error) from error
    return values


def lengths_of_text(content: bytes | None, count: int, where: str) -> npt.NDArray[np.int64]:
    """Bytes of each text of a chunk of `chip_id`, (count,); cheap where all are equally long, as names of chips are."""
    if content is None:
        return np.zeros(count, dtype=np.int64)
    try:
        first = _even_length(_checked_text(content), count)
        if first:
            return np.full(count, first, dtype=np.int64)
        return np.strings.str_len(_decode_text(content, count))
    except ValueError as error:
        raise _damaged_column("chip_id", where, error) from error


def texts_of(content: bytes | None, count: int, name: str, where: str) -> list[str]:
    """The texts of a chunk of column `name`, as Python's own; empty ones without a file."""
    if content is None:
        return [""] * count
    try:
        return _listed_texts(_checked_text(content), count)
    except ValueError as error:
        raise _damaged_column(name, where, error) from error


def write_column_chunk(layout: StoreLayout, name: str, path: Path, values: Mapping[int, Any]) -> None:
    """Store the values by position, flushed. A file that is there is kept; DamagedError where it says otherwise."""
    kind = chip_columns[name]
    column = _empty_column(layout, kind)
    if kind == "string":
        column = column.astype(object)
    for position, value in values.items():
        column[position] = value
    if path.exists():
        found = read_column_chunk(layout, name, path)
        if not all(a == b or (a != a and b != b) for a, b in zip(column.tolist(), found.tolist(), strict=True)):
            raise DamagedError(
                f"{path} is sealed with other values", hint="A sealed shard is never rewritten; use a new generation."
            )
        return
    content = (
        encode_text(column.tolist())
        if kind == "string"
        else ChunkCodec(profile=layout.codec, dtype=column.dtype).encode(column)
    )
    write_file(path, content)
    flush_directory(path.parent)


def encode_text(texts: Sequence[str]) -> bytes:
    """Strings as one chunk: vlen-utf8, then crc32c."""
    content = bytes(VLenUTF8().encode(np.array(texts, dtype=object)))
    return content + checksum(content)


def _checked_text(content: bytes) -> bytes:
    text = content[:-checksum_bytes]
    if len(text) < checksum_bytes or checksum(text) != content[-checksum_bytes:]:
        raise ValueError("its checksum is wrong")
    return text


def _decode_text(content: bytes, count: int) -> Array:
    text = _checked_text(content)
    length = _even_length(text, count)
    if length and text.isascii():
        letters = np.frombuffer(text, np.uint8, offset=4).reshape(count, 4 + length)[:, 4:]
        return np.ascontiguousarray(letters).view(f"S{length}")[:, 0].astype(f"U{length}")
    return np.array(_listed_texts(text, count), dtype=np.str_)


def _listed_texts(text: bytes, count: int) -> list[str]:
    found: list[str] = VLenUTF8().decode(text).tolist()
    if len(found) != count:
        raise ValueError(f"it holds {len(found)} strings, expected {count}")
    return found


def _even_length(text: bytes, count: int) -> int:
    """Bytes of each of `count` texts where all have equally many, else 0. vlen-utf8: a number, then length and text."""
    length = int.from_bytes(text[4:8], "little")
    if length == 0 or int.from_bytes(text[:4], "little") != count or len(text) != 4 + count * (4 + length):
        return 0
    items = np.frombuffer(text, np.uint8, offset=4).reshape(count, 4 + length)
    lengths = np.ascontiguousarray(items[:, :4]).view("<u4")
    return length if bool((lengths == length).all()) else 0


def _damaged_column(name: str, where: str, error: ValueError) -> DamagedError:
    return DamagedError(f"cannot read the column {name}: {where}: {error}", hint=repair_hint)


def _empty_column(layout: StoreLayout, kind: str) -> Array:
    if kind == "string":
        return np.zeros(layout.shard_chips, dtype=np.str_)
    return np.full(layout.shard_chips, missing_epsg if kind == "int32" else np.nan, dtype=kind)
