"""The store: what xarray and zarr see without us, sealing, growing, reading, and damage named by chip, array, file."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from fakes.chips import all_specs, chip_m, few_specs, make_chips, make_store, stored_or_fill
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.errors import DamagedError, InputError
from m3etl.io import sealing
from m3etl.io.layout import documents, read_layout
from m3etl.io.shards import codec_names
from m3etl.io.store import choose_shard_chips, create_store, grow_store, open_store, read_stats, seal_shard
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import ArraySpec, ClassCode, Shape, Temporal, Values, physical_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """A store with every array of the catalogue, 11 chips in shards of 4."""
    path = tmp_path_factory.mktemp("whole") / "chips.zarr"
    return path, make_store(path, all_specs)


@pytest.mark.parametrize("spec", all_specs, ids=lambda spec: spec.name)
@pytest.mark.parametrize("way", ["datatree", "zarr"])
def test_xarray_alone_gives_physical_values(whole, spec, way):
    path, chips = whole
    if way == "datatree":
        data = xarray.open_datatree(path, engine="zarr")[spec.name].to_dataset()["data"].load()
    else:
        data = xarray.open_zarr(path, group=spec.name)["data"].load()
    label = "feature" if spec.shape is Shape.VECTOR else "band"
    assert data.sizes["chip"] == 12
    assert tuple(str(name) for name in data[label].values) == spec.bands
    for chip in chips:
        expected = physical_of(spec, stored_or_fill(chip, spec))
        for position, band in enumerate(spec.bands):
            np.testing.assert_allclose(data.sel({label: band})[chip.row], expected[position], rtol=1e-5, atol=1e-6)
    assert np.isnan(data[11]).all()
    assert data.attrs["units"] == spec.units
    if spec.classes:
        assert data.attrs["flag_meanings"].split() == ["_".join(item.name.split()) for item in spec.classes]
        assert list(data.attrs["flag_values"]) == [item.code for item in spec.classes]
    if spec.shape is Shape.RASTER:
        assert data.attrs["gsd_m"] * data.sizes["x"] == pytest.approx(chip_m)


def test_columns_of_the_root(whole):
    path, chips = whole
    root = xarray.open_zarr(path).load()
    assert [str(name) for name in root["chip_id"].values] == [chip.chip_id for chip in chips] + [""]
    assert np.isnan(root["lon"][11])
    assert np.isnan(root["epsg"][11])
    np.testing.assert_array_equal(root["ymax"][:11], 5_000_000.0)
    store = open_store(path)
    assert store.split.tolist() == [chip.split for chip in chips] + [""]
    assert store.epsg.tolist() == [32632] * 11 + [-1]
    assert store.lat[10] == chips[10].lat
    assert store.xmin[3] == chips[3].xmin
    assert store.lon[0] == 9.0
    assert store.ymax[0] == 5_000_000.0


@pytest.mark.parametrize("codec", codec_names)
def test_reader_equals_zarr_python_in_every_profile(tmp_path, codec):
    make_store(tmp_path / "s", codec=codec, count=5)
    store = open_store(tmp_path / "s")
    rows = np.array([3, 0, 7, 4, 4])
    for spec in few_specs:
        expected = zarr.open_array(tmp_path / "s" / spec.name / "data")[:]
        assert expected.dtype == np.dtype(spec.dtype)
        for threads in (1, 2):
            np.testing.assert_array_equal(store.read(spec.name, rows, threads=threads), expected[rows])


@settings(max_examples=15)
@given(
    side=st.integers(1, 12),
    shard_chips=st.integers(1, 5),
    count=st.integers(1, 9),
    bands=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.5, 1.0]),
    codec=st.sampled_from(codec_names),
    dtype=st.sampled_from([("uint8", 255), ("int16", -32768), ("float32", None)]),
)
def test_any_shape_round_trips(tmp_path_factory, side, shard_chips, count, bands, missing, codec, dtype):
    base = catalogue["canopy_height"]
    names = tuple(f"b{position}" for position in range(bands))
    raster = replace(base, name="r", bands=names, dtype=dtype[0], fill=dtype[1], valid_min=0, valid_max=200)
    vector = replace(
        base, name="v", bands=names, dtype=dtype[0], fill=dtype[1], valid_min=0, valid_max=200, shape=Shape.VECTOR
    )
    path = tmp_path_factory.mktemp("any") / "s"
    options = {"side_m": side * 10.0, "missing": missing}
    chips = make_store(path, (raster, vector), count=count, shard_chips=shard_chips, codec=codec, **options)
    store = open_store(path)
    for spec in (raster, vector):
        expected = np.stack([stored_or_fill(chip, spec, side_m=side * 10.0) for chip in chips])
        np.testing.assert_array_equal(store.read(spec.name, np.arange(count)), expected)
        observed = ~np.isnan(expected) if spec.fill is None else expected != spec.fill
        np.testing.assert_array_equal(store.present(spec.name)[:count], observed.reshape(count, -1).any(axis=1))
        np.testing.assert_array_equal(zarr.open_array(path / spec.name / "data")[:count], expected)


def test_specs_come_back_from_the_metadata_alone(whole):
    path, _ = whole
    store = open_store(path)
    assert list(store.specs) == [spec.name for spec in all_specs]
    assert {name: spec.digest() for name, spec in store.specs.items()} == {s.name: s.digest() for s in all_specs}


def test_a_users_own_array_keeps_its_declaration(tmp_path):
    mine = ArraySpec(
        name="mine",
        modality="mine",
        title="mine",
        shape=Shape.VECTOR,
        values=Values.CLASSES,
        bands=("kind",),
        dtype="int16",
        fill=-1,
        units="1",
        source=(),
        recipe="mine",
        temporal=Temporal.TIME,
        license="own",
        scale=2.0,
        offset=0.5,
        valid_min=0,
        valid_max=9,
        classes=(ClassCode(code=0, name="no"), ClassCode(code=1, name="yes please", color="#010203")),
    )
    make_store(tmp_path / "s", (mine,), count=2)
    assert open_store(tmp_path / "s").specs["mine"] == mine
    attributes = xarray.open_zarr(tmp_path / "s", group="mine", mask_and_scale=False)["data"].attrs
    assert (attributes["scale_factor"], attributes["add_offset"], attributes["_FillValue"]) == (2.0, 0.5, -1)


def test_same_chips_same_bytes_and_sealing_again_changes_nothing(tmp_path):
    chips = make_store(tmp_path / "a")
    make_store(tmp_path / "b")
    before = tree_bytes(tmp_path / "a")
    assert before == tree_bytes(tmp_path / "b")
    again = seal_shard(tmp_path / "a", 0, iter(chips[:4]), threads=2)
    assert tree_bytes(tmp_path / "a") == before
    spec = catalogue["sentinel2_l2a"]
    assert again["sentinel2_l2a"][chips[1].chip_id] == sealing.checksum_of(stored_or_fill(chips[1], spec))


@pytest.mark.parametrize("array", ["sentinel2_l2a", "era5_precipitation"])
def test_sealed_shard_is_not_rewritten(tmp_path, array):
    chips = make_store(tmp_path / "s", missing=0.0)
    before = tree_bytes(tmp_path / "s")
    changed = {**chips[0].arrays, array: chips[0].arrays[array] + chips[0].arrays[array].dtype.type(1)}
    with pytest.raises(DamagedError, match="sealed with other values"):
        seal_shard(tmp_path / "s", 0, [replace(chips[0], arrays=changed), *chips[1:4]])
    with pytest.raises(DamagedError, match="not given now"):
        seal_shard(tmp_path / "s", 0, chips[:3])
    with pytest.raises(DamagedError, match="lon"):
        seal_shard(tmp_path / "s", 0, [replace(chips[0], lon=1.0), *chips[1:4]])
    assert tree_bytes(tmp_path / "s") == before


def test_chips_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    chips = make_chips(few_specs, 2, missing=0.0)
    create_store(tmp_path / "s", few_specs, chip_m=chip_m, shard_chips=4)
    before = tree_bytes(tmp_path / "s")
    wrong = {"worldcover": np.zeros((1, 16, 15), np.uint8)}
    for bad, reason in (
        ([chips[0], replace(chips[1], row=0)], "ascending"),
        ([replace(chips[0], row=4)], "shard 0"),
        ([replace(chips[0], arrays=wrong)], r"worldcover of chip .* is uint8 \(1, 16, 15\)"),
        ([replace(chips[0], chip_id="")], "shard 0"),
    ):
        with pytest.raises(InputError, match=reason):
            seal_shard(tmp_path / "s", 0, bad)
    with pytest.raises(InputError, match="nope"):
        seal_shard(tmp_path / "s", 0, chips, arrays=["nope"])
    assert tree_bytes(tmp_path / "s") == before


@pytest.mark.parametrize("step", range(0, 26, 3))
def test_killed_while_sealing_shows_no_half_shard_and_completes_later(tmp_path, monkeypatch, step):
    chips = make_chips(few_specs, 4)
    create_store(tmp_path / "s", few_specs, chip_m=chip_m, shard_chips=4)
    grow_store(tmp_path / "s", 4)
    calls = iter(range(1000))

    def killed(descriptor):
        if next(calls) == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        patch.setattr(sealing._Sealing, "discard", leave_everything)
        with pytest.raises(KeyboardInterrupt):
            seal_shard(tmp_path / "s", 0, chips, threads=1)
    store = open_store(tmp_path / "s")
    if store.chip_ids[0]:
        read_all(store, range(4))
    else:
        assert not store.chip_ids.any()
    seal_shard(tmp_path / "s", 0, chips, threads=1)
    make_store(tmp_path / "t", count=4)
    assert tree_bytes(tmp_path / "s") == tree_bytes(tmp_path / "t")
    assert list((tmp_path / "s").rglob(".*")) == []


@pytest.mark.parametrize("step", range(0, 40, 5))
def test_killed_while_growing_old_and_new_readers_are_right(tmp_path, monkeypatch, step):
    make_store(tmp_path / "s", count=4)
    old = open_store(tmp_path / "s")
    later = make_chips(few_specs, 3, first_row=4)
    seal_shard(tmp_path / "s", 1, later)
    calls = iter(range(1000))

    def killed(descriptor):
        if next(calls) == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        try:
            grow_store(tmp_path / "s", 8)
        except KeyboardInterrupt:
            assert read_layout(tmp_path / "s").rows in (4, 8)
    tree = xarray.open_datatree(tmp_path / "s", engine="zarr")
    assert len({group.sizes["chip"] for group in tree.subtree}) == 1
    assert tree["sentinel2_l2a/data"].load().sizes["chip"] in (4, 8)
    xarray.open_zarr(tmp_path / "s", group="biome").load()
    read_all(old, range(4))
    grow_store(tmp_path / "s", 8)
    assert open_store(tmp_path / "s").chip_ids[4:].tolist() == [*(chip.chip_id for chip in later), ""]
    expected = {name: json.loads(json.dumps(item)) for name, item in documents(read_layout(tmp_path / "s")).items()}
    found = {name: json.loads((tmp_path / "s" / name / "zarr.json").read_text()) for name in expected}
    assert found == expected


def test_old_metadata_reads_a_store_that_has_grown(tmp_path):
    make_store(tmp_path / "s", count=4)
    old_root = (tmp_path / "s" / "zarr.json").read_bytes()
    seal_shard(tmp_path / "s", 1, make_chips(few_specs, 4, first_row=4))
    grow_store(tmp_path / "s", 8)
    (tmp_path / "s" / "zarr.json").write_bytes(old_root)
    tree = xarray.open_datatree(tmp_path / "s", engine="zarr").load()
    assert {group.sizes["chip"] for group in tree.subtree} == {4}


def test_growing_is_idempotent_and_never_shrinks(tmp_path):
    make_store(tmp_path / "s", count=4)
    before = tree_bytes(tmp_path / "s")
    grow_store(tmp_path / "s", 4)
    assert tree_bytes(tmp_path / "s") == before
    with pytest.raises(InputError, match="shrink"):
        grow_store(tmp_path / "s", 3)


def test_a_new_array_joins_existing_rows(tmp_path):
    chips = make_store(tmp_path / "s", few_specs[:2], count=6, missing=0.0)
    extra = catalogue["dynamic_world"]
    create_store(tmp_path / "s", [*few_specs[:2], extra], chip_m=chip_m, shard_chips=4)
    create_store(tmp_path / "s", [extra], chip_m=chip_m, shard_chips=4)
    store = open_store(tmp_path / "s")
    assert list(store.specs) == [few_specs[0].name, few_specs[1].name, "dynamic_world"]
    with pytest.raises(DamagedError, match="file is missing"):
        store.read("dynamic_world", [0])
    later = [replace(chip, arrays={"dynamic_world": np.full((1, 16, 16), 3, np.uint8)}) for chip in chips]
    for shard in range(2):
        mine = [chip for chip in later if chip.row // 4 == shard]
        assert set(seal_shard(tmp_path / "s", shard, mine, arrays=["dynamic_world"])) == {"dynamic_world"}
    assert (open_store(tmp_path / "s").read("dynamic_world", range(6)) == 3).all()
    np.testing.assert_array_equal(store.read("sentinel2_l2a", [5])[0], chips[5].arrays["sentinel2_l2a"])


def test_another_declaration_or_size_is_refused(tmp_path):
    make_store(tmp_path / "s", few_specs[:1], count=2)
    changed = replace(few_specs[0], scale=1e-3)
    with pytest.raises(InputError, match="sentinel2_l2a is declared otherwise"):
        create_store(tmp_path / "s", [changed], chip_m=chip_m, shard_chips=4)
    with pytest.raises(InputError, match="shard_chips is 4 and not 8"):
        create_store(tmp_path / "s", few_specs[:1], chip_m=chip_m, shard_chips=8)


def test_flipped_byte_names_chip_array_and_file(tmp_path):
    make_store(tmp_path / "s", missing=0.0, count=4)
    store = open_store(tmp_path / "s")
    path = store.shard_path("sentinel2_l2a", 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        store.read("sentinel2_l2a", range(4))
    assert str(path) in caught.value.message
    assert "sentinel2_l2a of chip 32632-160-000" in caught.value.message
    audit = store.verify_shard(0)
    assert len(audit.damaged) == 1
    assert len(audit.checksums["sentinel2_l2a"]) == 3
    assert len(audit.checksums["biome"]) == 4


@pytest.mark.parametrize("array", ["era5_precipitation", "biome", "worldcover"])
@pytest.mark.parametrize("damage", ["short", "missing", "flipped"])
def test_damaged_files_are_never_data(tmp_path, array, damage):
    make_store(tmp_path / "s", missing=0.0, count=4)
    store = open_store(tmp_path / "s")
    path = store.shard_path(array, 0)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "short" else content[:-1] + bytes([content[-1] ^ 255]))
    with pytest.raises(DamagedError, match=path.name):
        store.read(array, [0, 1, 2, 3])


@pytest.mark.parametrize("column", ["chip_id", "split", "lon", "epsg"])
def test_damaged_column_names_itself(tmp_path, column):
    make_store(tmp_path / "s", count=4)
    path = open_store(tmp_path / "s").column_path(column, 0)
    content = path.read_bytes()
    path.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    with pytest.raises(DamagedError, match=f"column {column}"):
        getattr(open_store(tmp_path / "s"), {"chip_id": "chip_ids"}.get(column, column))


def test_verify_gives_the_checksums_of_sealing(tmp_path):
    chips = make_chips(few_specs, 4)
    create_store(tmp_path / "s", few_specs, chip_m=chip_m, shard_chips=4)
    sealed = seal_shard(tmp_path / "s", 0, chips)
    grow_store(tmp_path / "s", 4)
    audit = open_store(tmp_path / "s").verify_shard(0)
    assert audit.damaged == ()
    assert audit.checksums == sealed


def test_reader_survives_pickling_and_forking(tmp_path):
    make_store(tmp_path / "s", count=4, missing=0.0)
    store = open_store(tmp_path / "s")
    expected = store.read("sentinel2_l2a", [1])
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own object, as DataLoader sends it to workers
    np.testing.assert_array_equal(copy.read("sentinel2_l2a", [1]), expected)
    store.close()
    np.testing.assert_array_equal(store.read("sentinel2_l2a", [1]), expected)
    store.prefetch(["sentinel2_l2a"], [1])


def test_reading_outside_and_unknown_names(tmp_path):
    make_store(tmp_path / "s", count=4)
    store = open_store(tmp_path / "s")
    with pytest.raises(IndexError, match=r"\[0, 4\)"):
        store.read("biome", [4])
    with pytest.raises(InputError, match="no array nothing"):
        store.read("nothing", [0])
    with pytest.raises(ValueError, match="needs a buffer"):
        store.read_into("biome", [0], np.empty((1, 2), np.uint8))
    assert store.read("biome", []).shape == (0, 1)


def test_no_store_and_unreadable_store(tmp_path):
    with pytest.raises(InputError, match="no store"):
        open_store(tmp_path / "s")
    make_store(tmp_path / "s", count=2)
    root = tmp_path / "s" / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["m3etl_store_version"] = 99
    root.write_text(json.dumps(document))
    with pytest.raises(DamagedError, match="version 99"):
        open_store(tmp_path / "s")
    root.write_text("{")
    with pytest.raises(DamagedError, match="metadata"):
        open_store(tmp_path / "s")


def test_full_or_read_only_disk_is_one_clear_error(tmp_path, monkeypatch):
    create_store(tmp_path / "s", few_specs, chip_m=chip_m, shard_chips=4)
    before = tree_bytes(tmp_path / "s")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        seal_shard(tmp_path / "s", 0, make_chips(few_specs, 2))
    with pytest.raises(InputError, match="No space left"):
        grow_store(tmp_path / "s", 4)
    assert {path for path in tree_bytes(tmp_path / "s") if "tmp" not in path} == set(before)


@pytest.mark.parametrize(
    ("planned", "expected"),
    [(0, 16), (3, 16), (112, 16), (129, 32), (1000, 128), (5000, 256), (10**6, 256), (4 * 10**6, 512)],
)
def test_shard_size_rule(planned, expected):
    chosen = choose_shard_chips(planned, all_specs, 1280.0)
    assert chosen == expected
    assert planned / chosen <= 9000


def test_shards_of_large_chips_stay_below_two_gigabytes():
    assert choose_shard_chips(10_000, all_specs, 10_240.0) == 64
    with pytest.raises(InputError, match="shards"):
        choose_shard_chips(10**7, all_specs, 20_480.0)


def test_stats_file_is_found_or_explained(tmp_path):
    with pytest.raises(InputError, match="no statistics"):
        read_stats(tmp_path / "stats.json")
    (tmp_path / "stats.json").write_text("[]")
    with pytest.raises(DamagedError, match="object"):
        read_stats(tmp_path / "stats.json")
    (tmp_path / "stats.json").write_text("{")
    with pytest.raises(DamagedError, match="cannot read"):
        read_stats(tmp_path / "stats.json")
    (tmp_path / "stats.json").write_text("{}")
    assert read_stats(tmp_path / "stats.json") == {}


def test_few_files(whole):
    path, _ = whole
    files = [item for item in path.rglob("*") if item.is_file() and item.name.startswith("c.")]
    labels = len(all_specs)
    assert len(files) == labels + 3 * (len(all_specs) + 7)


def read_all(store, rows):
    for spec in store.specs.values():
        assert store.read(spec.name, rows).shape[0] == len(rows)


def leave_everything(state):
    """What kill -9 does: file handles go, nothing is cleaned up."""
    for sink in state.sinks.values():
        writer = getattr(sink, "_writer", None)
        if writer is not None and writer._file is not None:
            writer._file.close()


def tree_bytes(root: Path) -> dict[str, bytes]:
    """Every finished file below `root` with its content; temporary names are no part of a store."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_few_open_files_are_enough(tmp_path):
    chips = make_store(tmp_path / "s", few_specs[:3], count=12, shard_chips=1, missing=0.0)
    store = open_store(tmp_path / "s")
    store._most_files = 2
    for row in (3, 9, 3, 0, 11, 9):
        for spec in few_specs[:3]:
            np.testing.assert_array_equal(store.read(spec.name, [row])[0], chips[row].arrays[spec.name])
    assert len(store._files) == 2


def test_tensorstore_reads_the_same(tmp_path):
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    make_store(tmp_path / "s", count=5)
    store = open_store(tmp_path / "s")
    for spec in few_specs:
        path = f"{tmp_path}/s/{spec.name}/data"
        opened = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, read=True).result()
        np.testing.assert_array_equal(opened.read().result(), store.read(spec.name, range(8)))
