"""Sealing under kill -9 and on a full disk; what others read in every codec profile; few chips in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from fakes.chips import chip_m, few_specs, make_chips, make_store, stored_or_fill
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.io import sealing
from m3etl.io.frames import is_planar
from m3etl.io.shards import codec_names, temporary_of
from m3etl.io.store import create_store, grow_store, open_store, seal_shard
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import physical_of

repository = Path(__file__).resolve().parents[3]
large_specs = tuple(catalogue[name] for name in ("sentinel2_l2a", "sentinel1_asc", "worldcover", "canopy_height"))


@pytest.fixture(scope="module", params=codec_names)
def large(request, tmp_path_factory):
    """Chips of full size (byte planes are in use) in one codec profile, and the path of their store."""
    path = tmp_path_factory.mktemp("large") / "chips.zarr"
    specs = (*large_specs, catalogue["era5_temperature"])
    chips = make_store(path, specs, count=3, shard_chips=2, codec=request.param, side_m=1280.0, missing=0.15)
    return path, specs, chips


def test_others_read_the_same_bytes_in_every_profile(large):
    path, specs, chips = large
    store = open_store(path)
    assert is_planar(np.dtype("uint16"), 12 * 128 * 128 * 2)
    assert {spec.name for spec in specs} == set().union(*(chip.arrays for chip in chips))
    for spec in specs:
        expected = np.stack([stored_or_fill(chip, spec, side_m=1280.0) for chip in chips])
        place = f"{path}/{spec.name}/data"
        kvstore = {"driver": "file", "path": place}
        opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
        for values in (store.read(spec.name, range(3)), zarr.open_array(place)[:3], opened[:3].read().result()):
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected)
        physical = xarray.open_zarr(path, group=spec.name)["data"][:3].to_numpy()
        np.testing.assert_allclose(physical, physical_of(spec, expected), rtol=1e-6, atol=1e-6)


def test_dask_chunks_of_whole_shards(large):
    path, specs, _ = large
    data = xarray.open_zarr(path, group="sentinel2_l2a", chunks={"chip": open_store(path).shard_chips})["data"]
    assert data.chunks[0] == (2, 2)
    assert [len(sizes) for sizes in data.chunks[1:]] == [1, 1, 1]
    spec = specs[0]
    counted = (data.notnull().sum(("chip", "y", "x"))).compute()
    stored = open_store(path).read("sentinel2_l2a", range(3))
    np.testing.assert_array_equal(counted, (stored != spec.fill).sum(axis=(0, 2, 3)))


def test_killed_anywhere_no_reader_sees_half_and_the_next_run_completes(tmp_path):
    make_store(tmp_path / "whole", count=4)
    chips = make_chips(few_specs, 4)
    size = sum(path.stat().st_size for path in shard_files(tmp_path / "whole"))
    counts = np.random.default_rng(11).integers(1, int(size * 0.9), 9)
    points = [f"bytes:{count}" for count in [1, *counts]]
    points += [f"fsync:{number}" for number in (1, 4, 8, 15, 20)] + [f"replace:{number}" for number in (1, 3, 6, 9)]
    script = repository / "tests" / "fakes" / "killed_sealing.py"
    environment = {**os.environ, "PYTHONPATH": f"{repository}:{repository / 'tests'}"}
    command = [sys.executable, str(script), str(tmp_path / "killed"), *points]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    leftovers = 0
    for number, point in enumerate(points):
        path = tmp_path / "killed" / str(number)
        leftovers += len(list(path.rglob(".*.tmp")))
        check_nothing_is_half(path, chips)
        seal_shard(path, 0, chips)
        assert finished_files(path) == finished_files(tmp_path / "whole"), point
        assert list(path.rglob(".*")) == [], point
    assert leftovers > 0


def check_nothing_is_half(path, chips):
    """Every array reads as before sealing or as after it, all rows alike; chips exist only when all arrays do."""
    sealed = set()
    for spec in few_specs:
        expected = np.stack([stored_or_fill(chip, spec) for chip in chips])
        values = zarr.open_array(path / spec.name / "data")[:]
        if values.tobytes() == expected.tobytes():
            sealed.add(spec.name)
        else:
            np.testing.assert_array_equal(values, np.full_like(expected, spec.fill_value()))
    names = open_store(path).chip_ids.tolist()
    assert names in ([""] * 4, [chip.chip_id for chip in chips])
    if names[0]:
        assert sealed == {spec.name for spec in few_specs}
    xarray.open_datatree(path, engine="zarr").load()


def test_open_handles_of_others_outlive_a_new_generation(tmp_path):
    chips = make_store(tmp_path / "s", few_specs[:1], count=4)
    name = few_specs[0].name
    old = zarr.open_array(tmp_path / "s" / name / "data", mode="r")
    kvstore = {"driver": "file", "path": f"{tmp_path}/s/{name}/data"}
    older = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    lazy = xarray.open_zarr(tmp_path / "s", group=name, mask_and_scale=False, chunks={"chip": 4})["data"]
    expected = np.stack([stored_or_fill(chip, few_specs[0]) for chip in chips])
    later = make_chips(few_specs[:1], 3, first_row=4)
    seal_shard(tmp_path / "s", 1, later)
    for values in (old[:], older.read().result(), lazy.to_numpy()):
        np.testing.assert_array_equal(values, expected)
    grow_store(tmp_path / "s", 8)
    for values in (old[:], older.read().result(), lazy.to_numpy()):
        np.testing.assert_array_equal(values, expected)
    new = zarr.open_array(tmp_path / "s" / name / "data", mode="r")[4:7]
    np.testing.assert_array_equal(new, np.stack([stored_or_fill(chip, few_specs[0]) for chip in later]))


@settings(max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    shard_chips=st.integers(1, 5),
    side=st.integers(1, 9),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 99),
)
def test_generations_of_any_size_append(tmp_path_factory, sizes, shard_chips, side, missing, seed):
    """Each generation starts at a full shard; its last shard may be part filled; nothing before it changes."""
    path, specs, side_m = tmp_path_factory.mktemp("grown") / "s", few_specs[2:4], side * 30.0
    create_store(path, specs, chip_m=side_m, shard_chips=shard_chips)
    chips, before = [], {}
    for size in sizes:
        first = open_store(path).rows
        grown = make_chips(specs, size, first_row=first, side_m=side_m, missing=missing, seed=seed)
        for shard in range(first // shard_chips, -(-(first + size) // shard_chips)):
            seal_shard(path, shard, [chip for chip in grown if chip.row // shard_chips == shard])
        rows = -(-(first + size) // shard_chips) * shard_chips
        grow_store(path, rows)
        chips += grown
        after = {name: content for name, content in finished_files(path).items() if "zarr.json" not in name}
        assert {name: after[name] for name in before} == before
        before = after
    store = open_store(path)
    ids = {chip.row: chip.chip_id for chip in chips}
    assert store.chip_ids.tolist() == [ids.get(row, "") for row in range(store.rows)]
    for spec in specs:
        values = zarr.open_array(path / spec.name / "data")[:]
        expected = np.full((store.rows, *spec.chip_shape(side_m)), spec.fill_value())
        for chip in chips:
            expected[chip.row] = stored_or_fill(chip, spec, side_m=side_m)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(store.read(spec.name, range(store.rows)), expected)


@pytest.mark.parametrize("limit", [500, 90_000, 500_000])
def test_full_disk_stops_cleanly(tmp_path, limit):
    """A limit on the size of files fails writes as a full disk does, in the middle of a file."""
    specs = large_specs[:1]
    chips = make_chips(specs, 4, missing=0.0, side_m=1280.0)
    create_store(tmp_path / "s", specs, chip_m=1280.0, shard_chips=4)
    before = finished_files(tmp_path / "s")
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from fakes.chips import make_chips\n"
        "from m3etl.errors import InputError\n"
        "from m3etl.io.store import seal_shard\n"
        "from m3etl.spec.catalog import arrays\n"
        "chips = make_chips([arrays['sentinel2_l2a']], 4, missing=0.0, side_m=1280.0)\n"
        "limit = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    seal_shard(Path(sys.argv[1]), 0, chips)\n"
        "except InputError as error:\n"
        "    print(error.message, error.hint)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{repository}:{repository / 'tests'}"}
    command = [sys.executable, "-c", program, str(tmp_path / "s"), str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    stored = sum(chip.arrays["sentinel2_l2a"].nbytes for chip in chips)
    assert limit < stored / 2
    assert "cannot seal shard 0" in done.stdout
    assert "Free some space" in done.stdout
    assert finished_files(tmp_path / "s") == before
    assert list((tmp_path / "s").rglob(".*")) == []
    seal_shard(tmp_path / "s", 0, chips)
    grow_store(tmp_path / "s", 4)
    np.testing.assert_array_equal(
        open_store(tmp_path / "s").read("sentinel2_l2a", [1])[0], chips[1].arrays["sentinel2_l2a"]
    )


def test_an_error_in_the_chips_leaves_nothing(tmp_path):
    create_store(tmp_path / "s", few_specs, chip_m=chip_m, shard_chips=4)
    before = finished_files(tmp_path / "s")

    def broken():
        yield from make_chips(few_specs, 2)
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="gone"):
        seal_shard(tmp_path / "s", 0, broken())
    assert finished_files(tmp_path / "s") == before
    assert list((tmp_path / "s").rglob(".*.tmp")) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_few_chips_wait_for_their_turn(tmp_path, threads):
    """The chips of a streamed shard are never all alive: a raw shard is never held."""
    alive = 0
    most = 0

    class Counted(dict):
        def __init__(self, values):
            nonlocal alive, most
            super().__init__(values)
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    create_store(tmp_path / "s", few_specs, chip_m=chip_m, shard_chips=64)
    chips = (replace(chip, arrays=Counted(chip.arrays)) for row in range(64) for chip in one_chip(row))
    seal_shard(tmp_path / "s", 0, chips, threads=threads)
    assert most <= 2 * threads + 3


def one_chip(row):
    return make_chips(few_specs, 1, first_row=row)


def test_all_fill_is_recognised_whatever_the_ends_say():
    for spec in (catalogue["sentinel2_l2a"], catalogue["era5_temperature"]):
        filled = sealing._Filled(spec, spec.chip_shape(chip_m))
        values = filled.values.copy()
        assert filled.equals(values)
        assert filled.equals(None)
        for place in (0, values.size // 2, values.size - 1):
            values = filled.values.copy()
            values.flat[place] = 1
            assert not filled.equals(values)


def test_temporary_names_are_hidden(tmp_path):
    assert temporary_of(tmp_path / "c.0").name.startswith(".")


def finished_files(root):
    """Every finished file with its content."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def shard_files(root):
    return [path for path in root.rglob("c.0.*") if path.is_file()]
