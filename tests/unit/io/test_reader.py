"""Every way of reading gives what zarr-python gives, bit for bit; old readers stay right; damage has an address."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from fakes.chips import few_specs, make_chips, make_store, stored_or_fill
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.errors import DamagedError
from m3etl.io import decoding
from m3etl.io.mapping import MappingBudget
from m3etl.io.reader import ChipStore
from m3etl.io.shards import codec_names
from m3etl.io.store import grow_store, open_store, seal_shard
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import Shape

ways = ("python", "native")


@pytest.fixture(autouse=True)
def _any_way():
    """Tests choose how chunks are decoded; afterwards it is as it was."""
    yield
    decoding.load_native()


def choose(way: str) -> None:
    """Decode by Python or by machine code from now on."""
    assert decoding.load_native()
    if way == "python":
        decoding.forget_native()


@settings(max_examples=25)
@given(
    way=st.sampled_from(ways),
    threads=st.sampled_from([1, 2, 5, 64]),
    side=st.integers(1, 24),
    shard_chips=st.integers(1, 6),
    count=st.integers(1, 17),
    bands=st.integers(1, 5),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
    codec=st.sampled_from(codec_names),
    dtype=st.sampled_from([("uint8", 255), ("int16", -32768), ("uint16", 0), ("float32", None)]),
    data=st.data(),
)
def test_every_way_equals_zarr_python(
    tmp_path_factory, way, threads, side, shard_chips, count, bands, missing, codec, dtype, data
):
    base = catalogue["canopy_height"]
    names = tuple(f"b{place}" for place in range(bands))
    raster = replace(base, name="r", bands=names, dtype=dtype[0], fill=dtype[1], valid_min=1, valid_max=200)
    vector = replace(raster, name="v", shape=Shape.VECTOR)
    path = tmp_path_factory.mktemp("any") / "s"
    make_store(path, (raster, vector), count=count, shard_chips=shard_chips, codec=codec, side_m=side * 10.0)
    rows = data.draw(st.lists(st.integers(0, -(-count // shard_chips) * shard_chips - 1), max_size=40))
    choose(way)
    store = open_store(path)
    for spec in (raster, vector):
        expected = zarr.open_array(path / spec.name / "data")[:]
        found = store.read(spec.name, rows, threads=threads)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected[np.array(rows, dtype=int)].tobytes()


@pytest.mark.parametrize("way", ways)
def test_several_arrays_at_once_and_slots_apart(tmp_path, way):
    chips = make_store(tmp_path / "s", few_specs, count=9, missing=0.3)
    choose(way)
    store = open_store(tmp_path / "s")
    rows = [8, 2, 2, 5]
    wide = {spec.name: np.zeros((8, *store.chip_shape(spec.name)), spec.dtype) for spec in few_specs}
    store.read_rows(rows, {name: values[::2] for name, values in wide.items()})
    for spec in few_specs:
        for slot, row in enumerate(rows):
            np.testing.assert_array_equal(wide[spec.name][2 * slot], stored_or_fill(chips[row], spec))
        assert not wide[spec.name][1::2].any()


def test_buffers_that_do_not_fit_are_refused(tmp_path):
    make_store(tmp_path / "s", few_specs, count=3, missing=0.0)
    choose("native")
    store = open_store(tmp_path / "s")
    whole = np.zeros((3, *store.chip_shape("sentinel2_l2a")), np.uint16)
    locked = whole.copy()
    locked.flags.writeable = False
    for wrong in (whole[:2], whole[:, :3], whole.swapaxes(1, 3), whole.astype(np.uint32), locked):
        with pytest.raises(ValueError, match="slots"):
            store.read_rows([0, 1, 2], {"sentinel2_l2a": wrong})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A store whose files are small enough to flip any byte of them: names of files, and the sound chips."""
    root = tmp_path_factory.mktemp("small") / "s"
    specs = tuple(catalogue[name] for name in ("worldcover", "sentinel1_asc", "era5_temperature"))
    make_store(root, specs, count=5, shard_chips=3, missing=0.0)
    return root, {spec.name: open_store(root).read(spec.name, range(5)) for spec in specs}


@settings(max_examples=120)
@given(way=st.sampled_from(ways), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), data=st.data())
def test_a_flipped_byte_anywhere_is_noticed_and_has_an_address(small, way, place, bit, data):
    root, sound = small
    choose(way)
    array, shard = data.draw(st.sampled_from(list(sound))), data.draw(st.integers(0, 1))
    path = open_store(root).shard_path(array, shard)
    content = path.read_bytes()
    position = int(place * len(content))
    rows = range(3 * shard, min(3 * shard + 3, 5))
    try:
        path.write_bytes(content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :])
        store = open_store(root)
        with pytest.raises(DamagedError) as caught:
            store.read(array, rows)
    finally:
        path.write_bytes(content)
    assert str(path) in caught.value.message
    assert array in caught.value.message
    named = [row for row in rows if store.chip_ids[row] in caught.value.message]
    assert named
    other = {name: sound[name] for name in sound if name != array}
    for name, values in other.items():
        np.testing.assert_array_equal(store.read(name, rows), values[rows.start : rows.stop])


@pytest.mark.parametrize("way", ways)
@pytest.mark.parametrize("codec", codec_names)
def test_a_flipped_byte_of_a_chunk_names_its_own_chip(tmp_path, way, codec):
    make_store(tmp_path / "s", few_specs, count=4, missing=0.0, codec=codec)
    store = open_store(tmp_path / "s")
    path = store.shard_path("sentinel2_l2a", 0)
    offset, length = store.source.open_shard("sentinel2_l2a/data/c.0.0.0.0", 4, None).index[2].tolist()
    content = bytearray(path.read_bytes())
    content[offset + length // 2] ^= 8
    path.write_bytes(content)
    choose(way)
    with pytest.raises(DamagedError) as caught:
        store.read("sentinel2_l2a", range(4))
    assert f"sentinel2_l2a of chip {store.chip_ids[2]} (row 2)" in caught.value.message
    assert str(path) in caught.value.message
    store.read("sentinel2_l2a", [0, 1, 3])


@pytest.mark.parametrize("way", ways)
def test_a_shard_that_shrinks_while_it_is_read_is_damaged(tmp_path, way):
    make_store(tmp_path / "s", few_specs, count=4, missing=0.0, codec="none")
    choose(way)
    store = open_store(tmp_path / "s")
    store.read("sentinel2_l2a", [0])
    os.truncate(store.shard_path("sentinel2_l2a", 0), 7000)
    with pytest.raises(DamagedError, match="sentinel2_l2a of chip"):
        store.read("sentinel2_l2a", range(4))


@pytest.mark.parametrize("most", [0, 1, 100])
def test_mapped_or_not_the_values_are_the_same_and_mappings_end(tmp_path, monkeypatch, most):
    monkeypatch.setattr(MappingBudget, "most_files", most)
    chips = make_store(tmp_path / "s", few_specs[:2], count=12, shard_chips=3, missing=0.0)
    choose("native")
    store = open_store(tmp_path / "s")
    for spec in few_specs[:2]:
        found = store.read(spec.name, range(12), threads=3)
        np.testing.assert_array_equal(found, np.stack([chip.arrays[spec.name] for chip in chips]))
    budget = store.source._mappings
    assert budget.files == min(most, 8)
    assert (budget.nbytes > 0) == (most > 0)
    store.close()
    assert (budget.files, budget.nbytes) == (0, 0)


@pytest.mark.parametrize("compressed", [True, False])
def test_chunks_out_of_the_page_cache_are_read(tmp_path, compressed):
    chips = make_store(tmp_path / "s", few_specs, count=4, missing=0.0, codec="zstd" if compressed else "none")
    choose("native")
    store = open_store(tmp_path / "s")
    store.read("sentinel2_l2a", range(4))
    for _ in range(2):
        with store.shard_path("sentinel2_l2a", 0).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        np.testing.assert_array_equal(store.read("sentinel2_l2a", [3])[0], chips[3].arrays["sentinel2_l2a"])


def test_readers_opened_before_stay_right_while_the_store_grows(tmp_path):
    chips = make_store(tmp_path / "s", few_specs, count=6, shard_chips=4)
    readers = [open_store(tmp_path / "s")]
    expected = {spec.name: readers[0].read(spec.name, range(6)) for spec in few_specs}

    def grow():
        for shard in range(2, 8):
            chips.extend(make_chips(few_specs, 4, first_row=4 * shard))
            seal_shard(tmp_path / "s", shard, chips[-4:], threads=1)
            grow_store(tmp_path / "s", 4 * shard + 4)
            readers.append(open_store(tmp_path / "s"))

    with ThreadPoolExecutor(2) as pool:
        growing = pool.submit(grow)
        while True:
            is_over = growing.done()
            for spec in few_specs:
                np.testing.assert_array_equal(readers[0].read(spec.name, range(6)), expected[spec.name])
            if is_over:
                break
        growing.result()
    assert [reader.rows for reader in readers] == [8, 12, 16, 20, 24, 28, 32]
    for reader in readers:
        have = [chip for chip in chips if chip.row < reader.rows]
        assert reader.chip_ids[reader.chip_ids != ""].tolist() == [chip.chip_id for chip in have]
        assert reader.sealed.tolist() == (reader.chip_ids != "").tolist()
        for spec in few_specs:
            found = reader.read(spec.name, [chip.row for chip in have])
            np.testing.assert_array_equal(found, np.stack([stored_or_fill(chip, spec) for chip in have]))


def test_names_of_uneven_length_and_other_letters(tmp_path):
    chips = make_chips(few_specs[-1:], 4)
    names = ["a", "åäö", "c" * 40, ""]
    store = sealed_with_names(tmp_path / "s", chips, names[:3])
    assert store.chip_ids.tolist() == names
    assert store.sealed.tolist() == [True, True, True, False]
    assert store.is_of_split("val").tolist() == [False, False, True, False]
    assert not store.is_of_split("buffer").any()


def sealed_with_names(path: Path, chips, names: list[str]) -> ChipStore:
    """A store of chips with other names."""
    make_store(path, few_specs[-1:], count=0)
    renamed = [replace(chip, chip_id=name) for chip, name in zip(chips, names, strict=False)]
    seal_shard(path, 0, renamed, threads=1)
    grow_store(path, 4)
    return open_store(path)
