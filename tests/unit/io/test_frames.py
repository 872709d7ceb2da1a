"""Frames of byte planes: libblosc gives back the values, whatever the type, size and kind of data."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc

from m3etl.io import frames
from m3etl.io.frames import block_bytes, encode_planes, is_planar, pack_planes
from m3etl.io.shards import ChunkCodec, checksum


def make_values(kind: str, dtype: str, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, count * np.dtype(dtype).itemsize, dtype=np.uint8).view(dtype)
    if kind == "constant":
        return np.full(count, 7, dtype=dtype)
    smooth = 1500 + 800 * np.sin(np.arange(count) / 300) + rng.normal(0, 11, count)
    return smooth.astype(dtype)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["noise", "constant", "landscape"]),
    dtype=st.sampled_from(["uint16", "int16", "float16", "int32", "float32", "float64"]),
    size=st.one_of(
        st.integers(block_bytes, 3 * block_bytes),
        st.sampled_from([block_bytes, block_bytes + 8, 2 * block_bytes, 393216]),
    ),
)
def test_libblosc_gives_the_values_back(kind, dtype, size):
    values = make_values(kind, dtype, size // np.dtype(dtype).itemsize)
    frame = b"".join(encode_planes(values))
    read = np.empty_like(values)
    blosc.decompress(frame, read)
    assert read.tobytes() == values.tobytes()
    assert struct.unpack_from("<III", frame, 4)[::2] == (values.nbytes, len(frame))
    assert pack_planes(values) == frame + checksum(frame)


def test_threads_pack_the_same_bytes_side_by_side():
    chips = [make_values(kind, "int16", 196_608, seed) for seed in range(4) for kind in ("noise", "landscape")]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pack_planes, chips * 3))
    assert found == [pack_planes(chip) for chip in chips] * 3


def test_read_only_values_are_packed_as_well():
    values = make_values("landscape", "uint16", 200_001)
    locked = np.frombuffer(values.tobytes(), values.dtype)
    assert not locked.flags.writeable
    assert pack_planes(locked) == pack_planes(values)


def test_without_machine_code_the_chunk_is_the_same(monkeypatch):
    values = make_values("landscape", "int16", 200_001)
    codec = ChunkCodec(profile="zstd", dtype=values.dtype)
    fast = codec.encode(values)
    monkeypatch.setattr(frames, "_load_packing", lambda: None)
    assert codec.encode(values) == fast


@pytest.mark.parametrize("profile", ["zstd", "fast"])
def test_the_codec_reads_planes_and_whole_frames_alike(profile):
    for size in (100, block_bytes // 2, block_bytes // 2 + 5, 200_001):
        values = make_values("landscape", "uint16", size)
        codec = ChunkCodec(profile=profile, dtype=values.dtype)
        encoded = codec.encode(values)
        read = np.empty_like(values)
        codec.decode_into(encoded, read)
        np.testing.assert_array_equal(read, values)
        split = not encoded[2] & 0x10
        if profile == "zstd":
            assert split == is_planar(values.dtype, values.nbytes)


def test_planes_are_no_larger_than_what_libblosc_makes():
    values = make_values("landscape", "uint16", 12 * 128 * 128)
    whole = blosc.compress(values, b"zstd", 3, blosc.SHUFFLE, 0, 2)
    assert sum(map(len, encode_planes(values))) <= 1.01 * len(whole)


@pytest.mark.parametrize("folder", ["S2L2A", "S2L1C", "S1RTC"])
def test_real_chips_come_back_and_are_no_larger(real_data, folder):
    ours = theirs = 0
    for path in sorted((real_data / "terramind" / folder).glob("*.tif")):
        with rasterio.open(path) as file:
            values = file.read(window=((0, 128), (0, 128)))
        stored = np.rint(np.nan_to_num(values * (100 if folder == "S1RTC" else 1))).astype(np.int16)
        stored = np.concatenate([stored] * (-(-block_bytes // stored.nbytes)))
        frame = b"".join(encode_planes(stored))
        read = np.empty_like(stored)
        blosc.decompress(frame, read)
        np.testing.assert_array_equal(read, stored)
        ours += len(frame)
        theirs += len(blosc.compress(stored, b"zstd", 3, blosc.SHUFFLE, 0, 2))
    assert 0 < ours <= 1.005 * theirs


def test_small_chunks_and_bytes_are_left_to_libblosc():
    assert not is_planar(np.dtype("uint8"), 1 << 20)
    assert not is_planar(np.dtype("uint16"), block_bytes - 2)
    assert is_planar(np.dtype("int16"), block_bytes)
