"""Landed responses in append-only segment files: header, payload, checksum. A torn tail (a crash in mid-write) is
found and dropped.

A record: magic, crc32c, length of the header and of the payload, header (JSON: chip_id and the parts), payload (the
parts' bytes). A file is never appended to by a later run, so what the ledger refers to is never touched again.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from m3etl.errors import DamagedError, InputError

segment_bytes = 256 * 1024 * 1024
_magic = b"M3SG"
_head = struct.Struct("<4sIIQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One response of a chip: what was asked for (plain JSON) and the bytes as they came."""

    asked: Mapping[str, Any]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record lies: number of the segment, offset and length in bytes."""

    segment: int
    offset: int
    length: int


class SegmentWriter:
    """Appends records to new segment files of one directory; `flush` makes what was appended durable."""

    def __init__(self, directory: Path, *, limit_bytes: int = segment_bytes) -> None:
        self._directory = directory
        self._limit = limit_bytes
        self._file: BinaryIO | None = None
        self._number = max(segment_numbers(directory), default=-1)

    @property
    def current(self) -> int:
        """Number of the segment that is written now; -1 before the first record."""
        return self._number if self._file else -1

    def append(self, chip_id: str, parts: Sequence[Part]) -> Place:
        """Write one record; not durable before `flush`. Raises InputError when the disk is full or read-only."""
        header = json.dumps(
            {"chip_id": chip_id, "parts": [{"asked": dict(part.asked), "length": len(part.body)} for part in parts]},
            separators=(",", ":"),
        ).encode()
        payload_length = sum(len(part.body) for part in parts)
        checksum = google_crc32c.value(header)
        for part in parts:
            checksum = google_crc32c.extend(checksum, part.body)
        head = _head.pack(_magic, checksum, len(header), payload_length)
        try:
            file = self._open()
            offset = file.tell()
            file.write(head)
            file.write(header)
            for part in parts:
                file.write(part.body)
        except OSError as error:
            raise unwritable(self._directory, error) from error
        return Place(segment=self._number, offset=offset, length=len(head) + len(header) + payload_length)

    def flush(self) -> None:
        """Everything appended so far is on the disk when this returns."""
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self._directory, error) from error
        if self._file.tell() >= self._limit:
            self.close()

    def close(self) -> None:
        """End the current file; the next record starts another."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except OSError as error:  # what was still buffered; nothing of it was recorded
            raise unwritable(self._directory, error) from error

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._number += 1
            self._file = segment_path(self._directory, self._number).open("xb")
            sync_directory(self._directory)
        return self._file


def segment_path(directory: Path, number: int) -> Path:
    """File of one segment."""
    return directory / f"{number:08d}.seg"


def segment_numbers(directory: Path) -> list[int]:
    """Numbers of the segments that are there, ascending."""
    return sorted(int(path.stem) for path in directory.glob("*.seg") if path.stem.isdigit())


def read_record(directory: Path, place: Place) -> tuple[str, list[Part]]:
    """The chip id and the parts at a place. Raises DamagedError where they are not what was written."""
    path = segment_path(directory, place.segment)
    try:
        with path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.length)
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror}", hint=_hint) from error
    record = _parsed(data)
    if record is None or record[2] != place.length:
        raise DamagedError(f"{path} is damaged at byte {place.offset}", hint=_hint)
    return record[0], record[1]


def scan_segment(path: Path) -> Iterator[tuple[str, Place]]:
    """Chip id and place of every whole record, in order; ends quietly at a torn tail."""
    number = int(path.stem)
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset + _head.size <= size:
            file.seek(offset)
            magic, _, header_length, payload_length = _head.unpack(file.read(_head.size))
            length = _head.size + header_length + payload_length
            if magic != _magic or offset + length > size:
                return
            file.seek(offset)
            record = _parsed(file.read(length))
            if record is None:
                return
            yield record[0], Place(segment=number, offset=offset, length=length)
            offset += length


def remove_segment(directory: Path, number: int) -> None:
    """Delete a segment that nothing refers to any more."""
    segment_path(directory, number).unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make new names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> InputError:
    """What a full disk or a read-only directory means to the user."""
    return InputError(
        f"cannot write in {path}: {error.strerror}",
        hint="Free some space or make the directory writable, then run the same command again; nothing landed is lost.",
    )


_hint = "Remove the raw directory and run `m3etl export` again; what was not sealed is fetched again."


def _parsed(data: bytes) -> tuple[str, list[Part], int] | None:
    if len(data) < _head.size:
        return None
    magic, crc, header_length, payload_length = _head.unpack_from(data)
    length = _head.size + header_length + payload_length
    if magic != _magic or len(data) < length:
        return None
    body = data[_head.size : length]
    if google_crc32c.value(body) != crc:
        return None
    header = json.loads(body[:header_length])
    parts = []
    start = header_length
    for item in header["parts"]:
        parts.append(Part(asked=item["asked"], body=body[start : start + item["length"]]))
        start += item["length"]
    return header["chip_id"], parts, length
