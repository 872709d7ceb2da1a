"""The per-chip columns at the root of a store (chip_id, lon, lat, ...): one chunk file a shard, handled whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import VLenUTF8

from m3etl.errors import DamagedError
from m3etl.io.layout import StoreLayout, chip_columns, missing_epsg
from m3etl.io.shards import Array, ChunkCodec, checksum, checksum_bytes, flush_directory, write_file

repair_hint = "Run `m3etl validate` for a list; restore the file from a copy, or remove it and run `m3etl tile` again."


def read_column_chunk(layout: StoreLayout, name: str, path: Path) -> Array:
    """One chunk of column `name`, (shard_chips,); all fill without a file; DamagedError where it is damaged."""
    kind = chip_columns[name]
    values = _empty_column(layout, kind)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return values
    try:
        if kind == "string":
            return _decode_text(content, layout.shard_chips)
        ChunkCodec(profile=layout.codec, dtype=values.dtype).decode_into(content, values)
    except ValueError as error:
        raise DamagedError(f"cannot read the column {name}: {path}: {error}", hint=repair_hint) from error
    return values


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


def _decode_text(content: bytes, count: int) -> Array:
    text = content[:-checksum_bytes]
    if len(text) < checksum_bytes or checksum(text) != content[-checksum_bytes:]:
        raise ValueError("its checksum is wrong")
    values = np.asarray(VLenUTF8().decode(text), dtype=np.str_)
    if values.shape != (count,):
        raise ValueError(f"it holds {values.size} strings, expected {count}")
    return values


def _empty_column(layout: StoreLayout, kind: str) -> Array:
    if kind == "string":
        return np.zeros(layout.shard_chips, dtype=np.str_)
    return np.full(layout.shard_chips, missing_epsg if kind == "int32" else np.nan, dtype=kind)
