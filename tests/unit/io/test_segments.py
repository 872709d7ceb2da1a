"""Segments keep what was flushed, and a torn tail is dropped, whatever was torn."""

from __future__ import annotations

import contextlib

import pytest

from m3etl.errors import DamagedError, InputError
from m3etl.io.segments import Part, SegmentWriter, read_record, scan_segment, segment_numbers, segment_path


@pytest.fixture
def open_writer():
    """Makes writers that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            contextlib.closing(SegmentWriter(*arguments, **options))
        )


def part(body: bytes) -> Part:
    return Part(asked={"arrays": ["a"], "top": 0}, body=body)


def test_records_come_back_as_written(tmp_path, open_writer):
    writer = open_writer(tmp_path / "raw")
    first = writer.append("one", [part(b"abc"), part(b"")])
    second = writer.append("two", [part(bytes(range(256)) * 100)])
    writer.flush()
    assert read_record(tmp_path / "raw", first) == ("one", [part(b"abc"), part(b"")])
    assert read_record(tmp_path / "raw", second)[1][0].body == bytes(range(256)) * 100


def test_a_torn_tail_is_dropped_at_every_length(tmp_path, open_writer):
    writer = open_writer(tmp_path)
    places = [writer.append(name, [part(name.encode() * 7)]) for name in ("one", "two", "three")]
    writer.flush()
    writer.close()
    path = segment_path(tmp_path, 0)
    content = path.read_bytes()
    for length in range(places[2].offset, len(content)):
        path.write_bytes(content[:length])
        assert [name for name, _ in scan_segment(path)] == ["one", "two"]
    path.write_bytes(content)
    assert [name for name, _ in scan_segment(path)] == ["one", "two", "three"]


@pytest.mark.parametrize("position", [0, 5, 9, 25, -1])
def test_a_flipped_byte_is_damage_and_never_data(tmp_path, open_writer, position):
    writer = open_writer(tmp_path)
    place = writer.append("one", [part(b"payload")])
    writer.flush()
    path = segment_path(tmp_path, 0)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        read_record(tmp_path, place)


def test_a_new_run_never_appends_to_an_old_file(tmp_path, open_writer):
    for _ in range(2):
        writer = open_writer(tmp_path)
        writer.append("one", [part(b"x")])
        writer.flush()
        writer.close()
    assert segment_numbers(tmp_path) == [0, 1]


def test_files_are_bounded(tmp_path, open_writer):
    writer = open_writer(tmp_path, limit_bytes=1000)
    for number in range(10):
        writer.append(str(number), [part(bytes(400))])
        writer.flush()
    assert len(segment_numbers(tmp_path)) == 4


def test_a_disk_that_is_full_at_the_end_is_said_clearly(tmp_path, open_writer):
    writer = open_writer(tmp_path)
    writer.append("one", [part(b"x")])
    writer._file.close()
    writer._file = open("/dev/full", "wb")  # noqa: SIM115 - the writer closes it
    writer.append("two", [part(b"y")])
    with pytest.raises(InputError, match="No space left on device"):
        writer.close()
    writer.close()


def test_a_full_disk_is_said_clearly(tmp_path, open_writer, monkeypatch):
    writer = open_writer(tmp_path)
    writer.append("one", [part(b"x")])

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        writer.flush()
