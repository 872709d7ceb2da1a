"""Shard files: encoding round-trips, damage is noticed wherever it is, zarr-python reads the same values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from m3etl.errors import DamagedError, InputError
from m3etl.io.shards import ChunkCodec, ShardFile, ShardWriter, codec_names

dtypes = ("uint8", "uint16", "int16", "float16", "float32", "float64")


def write_shard(path: Path, codec: ChunkCodec, chunks: dict[int, np.ndarray], count: int) -> None:
    writer = ShardWriter(path, count)
    writer.open()
    for position, values in chunks.items():
        writer.append(position, codec.encode(values))
    writer.close()
    writer.publish()


@given(
    profile=st.sampled_from(codec_names),
    dtype=st.sampled_from(dtypes),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 9),
)
def test_chunk_comes_back_as_it_went_in(profile, dtype, shape, seed):
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    codec = ChunkCodec(profile=profile, dtype=np.dtype(dtype))
    read = np.empty_like(values)
    codec.decode_into(codec.encode(values), read)
    np.testing.assert_array_equal(read, values)
    assert codec.encode(values) == codec.encode(values.astype(values.dtype.newbyteorder(">")))


@pytest.mark.parametrize("profile", codec_names)
@pytest.mark.parametrize("dtype", dtypes)
def test_zarr_python_reads_our_shard(tmp_path, profile, dtype):
    rng = np.random.default_rng(1)
    expected = rng.integers(1, 99, (5, 2, 7, 7)).astype(dtype)
    expected[3] = 0
    codec = ChunkCodec(profile=profile, dtype=np.dtype(dtype))
    array = zarr.create_array(
        tmp_path / "a", shape=expected.shape, chunks=(1, 2, 7, 7), shards=(5, 2, 7, 7), dtype=dtype, fill_value=0
    )
    document = json.loads((tmp_path / "a" / "zarr.json").read_text())
    document["codecs"][0]["configuration"]["codecs"] = codec.metadata()
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(document))
    path = tmp_path / "a" / "c" / "0" / "0" / "0" / "0"
    path.parent.mkdir(parents=True)
    write_shard(path, codec, {k: expected[k] for k in (0, 4, 1, 2)}, 5)
    assert array.shape == expected.shape
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a")[:], expected)


def test_missing_chunks_are_not_stored(tmp_path):
    codec = ChunkCodec(profile="zstd", dtype=np.dtype("uint8"))
    write_shard(tmp_path / "s", codec, {2: np.ones(10, np.uint8)}, 4)
    file = ShardFile(tmp_path / "s", 4)
    assert file.present.tolist() == [False, False, True, False]
    assert file.read(0) is None
    assert file.read(2) is not None


@pytest.mark.parametrize("profile", codec_names)
def test_every_flipped_byte_is_noticed(tmp_path, profile):
    codec = ChunkCodec(profile=profile, dtype=np.dtype("uint16"))
    values = {k: np.random.default_rng(k).integers(0, 3000, (2, 4, 4)).astype("uint16") for k in range(3)}
    path = tmp_path / "s"
    write_shard(path, codec, values, 3)
    whole = path.read_bytes()
    read = np.empty((2, 4, 4), "uint16")
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises((DamagedError, ValueError)):  # noqa: PT012 - any of the chunks may be the damaged one
            file = ShardFile(path, 3)
            for position in range(3):
                codec.decode_into(file.read(position), read)


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_short_file_is_damaged(tmp_path, kept):
    codec = ChunkCodec(profile="none", dtype=np.dtype("uint8"))
    path = tmp_path / "s"
    write_shard(path, codec, {0: np.ones(50, np.uint8)}, 2)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedError, match="shard"):
        ShardFile(path, 2)


def test_chunk_of_another_size_is_refused():
    codec = ChunkCodec(profile="zstd", dtype=np.dtype("uint8"))
    with pytest.raises(ValueError, match="expected 11"):
        codec.decode_into(codec.encode(np.zeros(12, np.uint8)), np.empty(11, np.uint8))


def test_unknown_profile():
    with pytest.raises(InputError, match="gzip"):
        ChunkCodec(profile="gzip", dtype=np.dtype("uint8"))


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    codec = ChunkCodec(profile="zstd", dtype=np.dtype("uint8"))
    killed = ShardWriter(tmp_path / "s", 2)
    killed.open()
    killed.append(0, b"half")
    assert not (tmp_path / "s").exists()
    write_shard(tmp_path / "s", codec, {1: np.ones(3, np.uint8)}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    killed.discard()
    assert ShardFile(tmp_path / "s", 2).present.tolist() == [False, True]
