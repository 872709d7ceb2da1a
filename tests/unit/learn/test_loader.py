"""The loader: right values, every chip once, exact resume, equal parts for ranks, memory never reused too early."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from fakes.chips import few_specs, make_store, stored_or_fill
from fakes.range_server import range_server
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.errors import DamagedError, InputError, NothingSelectedError
from m3etl.io.remote import CachePlace, open_source
from m3etl.io.shards import codec_names
from m3etl.io.store import ChipStore, open_store
from m3etl.learn.batches import BatchStream
from m3etl.learn.dataset import ChipDataset
from m3etl.learn.loader import ChipLoader
from m3etl.learn.order import Order
from m3etl.learn.view import View
from m3etl.spec.modality import Shape


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    root = tmp_path_factory.mktemp("campaign")
    return root, make_store(root / "chips.zarr", few_specs, count=23, missing=0.3, shard_chips=4)


def rows_of(loader):
    return [batch["row"].tolist() for batch in loader]


@pytest.mark.parametrize(("threads", "shuffle"), [(1, "none"), (3, "window"), (64, "full")])
def test_every_chip_once_with_its_own_values(campaign, threads, shuffle):
    root, chips = campaign
    loader = ChipLoader(root, split=None, batch_size=5, shuffle=shuffle, threads=threads)
    assert len(loader) == 5
    seen = []
    for batch in loader:
        for place, row in enumerate(batch["row"].tolist()):
            seen.append(row)
            for spec in few_specs:
                np.testing.assert_array_equal(batch[spec.name][place].numpy(), stored_or_fill(chips[row], spec))
    assert sorted(seen) == list(range(23))
    assert (seen == sorted(seen)) == (shuffle == "none")


@settings(max_examples=12)
@given(
    side=st.integers(2, 20),
    shard_chips=st.integers(1, 7),
    count=st.integers(1, 19),
    bands=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.5]),
    batch_size=st.integers(1, 24),
    threads=st.sampled_from([1, 2, 8]),
    codec=st.sampled_from(codec_names),
    data=st.data(),
)
def test_any_store_is_read_as_zarr_python_reads_it(
    tmp_path_factory, side, shard_chips, count, bands, missing, batch_size, threads, codec, data
):
    root = tmp_path_factory.mktemp("any")
    raster = replace(few_specs[0], name="r", bands=tuple(f"b{place}" for place in range(bands)))
    vector = replace(raster, name="v", shape=Shape.VECTOR)
    options = {"count": count, "shard_chips": shard_chips, "codec": codec, "side_m": side * 10.0, "missing": missing}
    make_store(root / "chips.zarr", (raster, vector), **options)
    crop = data.draw(st.integers(1, side))
    shown = data.draw(st.lists(st.sampled_from(raster.bands), min_size=1, unique=True))
    expected = {name: zarr.open_array(root / "chips.zarr" / name / "data")[:] for name in ("r", "v")}
    loader = ChipLoader(
        root, split=None, batch_size=batch_size, threads=threads, view=View(crop_px=crop, bands={"r": shown})
    )
    first = (side - crop) // 2
    places = [raster.bands.index(band) for band in shown]
    seen = []
    for batch in loader:
        rows = batch["row"].numpy()
        seen += rows.tolist()
        part = expected["r"][rows][:, places, first : first + crop, first : first + crop]
        np.testing.assert_array_equal(batch["r"].numpy(), part)
        np.testing.assert_array_equal(batch["v"].numpy(), expected["v"][rows])
    assert sorted(seen) == list(range(count))


def test_threads_change_nothing_and_epochs_do(campaign):
    root, _ = campaign
    options = {"split": None, "batch_size": 6, "seed": 3}
    one, other = ChipLoader(root, threads=1, **options), ChipLoader(root, threads=3, **options)
    first, second = rows_of(one), rows_of(one)
    assert rows_of(other) == first
    assert rows_of(other) == second
    assert first != second
    one.set_epoch(0)
    assert rows_of(one) == first


def test_view_is_that_of_the_dataset(campaign):
    root, _ = campaign
    view = View(crop_px=8, random_crop=True, flips=True, upsample=True)
    dataset = ChipDataset(root, split=None, values="stored", view=view, seed=5)
    loader = ChipLoader(root, split=None, batch_size=7, view=view, seed=5)
    assert loader.shapes["aster_elevation"] == (1, 8, 8)
    for batch in loader:
        for place, row in enumerate(batch["row"].tolist()):
            for spec in few_specs:
                np.testing.assert_array_equal(batch[spec.name][place].numpy(), dataset[row][spec.name].numpy())


@settings(max_examples=25)
@given(
    taken=st.integers(0, 11),
    batch_size=st.sampled_from([1, 2, 4, 6, 30]),
    shuffle=st.sampled_from(["window", "full", "none"]),
    drop_last=st.booleans(),
)
def test_resume_at_any_step_gives_the_same_remaining_stream(campaign, taken, batch_size, shuffle, drop_last):
    root, _ = campaign
    if drop_last and batch_size == 30:
        return
    options = {"arrays": ["biome"], "split": None, "batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
    undisturbed = ChipLoader(root, **options)
    stream = rows_of(undisturbed) + rows_of(undisturbed) + rows_of(undisturbed)
    first = ChipLoader(root, **options)
    state = first.state_dict()
    count = 0
    while count < taken:
        for _ in first:
            count += 1
            state = json.loads(json.dumps(first.state_dict()))
            if count == taken:
                break
    resumed = ChipLoader(root, **options)
    resumed.load_state_dict(state)
    rest = []
    while len(rest) + taken < len(stream):
        rest += rows_of(resumed)
        if not rest:
            break
    assert rest[: len(stream) - taken] == stream[taken:]


@settings(max_examples=40)
@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 9),
    world=st.integers(1, 5),
    drop_last=st.booleans(),
    shuffle=st.sampled_from(["window", "full", "none"]),
)
def test_ranks_share_an_epoch(count, batch, world, drop_last, shuffle):
    rows = np.arange(count) * 2 + 1
    if drop_last and count < batch * world:
        with pytest.raises(InputError, match="drop_last"):
            Order(rows=rows, shard_chips=8, batch_size=batch, world_size=world, drop_last=True)
        return
    ranks = [
        Order(
            rows=rows,
            shard_chips=8,
            batch_size=batch,
            shuffle=shuffle,
            rank=rank,
            world_size=world,
            drop_last=drop_last,
        )
        for rank in range(world)
    ]
    seen = []
    for step in range(ranks[0].steps):
        parts = [rank.of_step(rank.of_epoch(3), step) for rank in ranks]
        assert len({part.size for part in parts}) == 1
        assert 0 < parts[0].size <= batch
        seen += np.concatenate(parts).tolist()
    assert set(seen) <= set(rows.tolist())
    if drop_last:
        assert len(seen) == len(set(seen)) == count // (batch * world) * batch * world
    else:
        assert set(seen) == set(rows.tolist())
        assert len(seen) - count < world


def test_another_world_size_continues_the_same_stream(campaign):
    root, _ = campaign
    one = ChipLoader(root, arrays=["biome"], split=None, batch_size=4, seed=2)
    iterator = iter(one)
    for _ in range(2):
        next(iterator)
    state = one.state_dict()
    rest = [row for batch in iterator for row in batch["row"].tolist()]
    ranks = [
        ChipLoader(root, arrays=["biome"], split=None, batch_size=2, seed=2, rank=rank, world_size=2)
        for rank in range(2)
    ]
    parts = []
    for rank in ranks:
        rank.load_state_dict(state)
        parts.append(rows_of(rank))
    together = [row for steps in zip(*parts, strict=True) for part in steps for row in part]
    assert together[: len(rest)] == rest
    wrong = ChipLoader(root, arrays=["biome"], split=None, batch_size=3, seed=2)
    with pytest.raises(InputError, match="no multiple of"):
        wrong.load_state_dict(state)


@settings(max_examples=30)
@given(
    total=st.sampled_from([4, 6, 12]),
    worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    taken=st.integers(0, 6),
    shuffle=st.sampled_from(["window", "full", "none"]),
    drop_last=st.booleans(),
)
def test_any_world_size_that_divides_resumes_the_same_stream(total, worlds, taken, shuffle, drop_last):
    before, after = worlds
    if total % before or total % after:
        return
    rows = np.arange(29) * 3

    def orders(world):
        options = {"rows": rows, "shard_chips": 8, "shuffle": shuffle, "drop_last": drop_last}
        return [Order(batch_size=total // world, rank=rank, world_size=world, **options) for rank in range(world)]

    def stream(ranks, start):
        steps = range(start, ranks[0].steps)
        return [np.concatenate([rank.of_step(rank.of_epoch(5), step) for rank in ranks]).tolist() for step in steps]

    whole, rest = stream(orders(before), 0), stream(orders(after), taken)
    for step, (one, other) in enumerate(zip(whole[taken:], rest, strict=True)):
        left = rows.size - (taken + step) * total  # beyond that the last step repeats chips, for equal parts
        assert one[:left] == other[:left]


def test_numpy_batches_are_the_same_and_need_neither_torch_nor_a_compiler(campaign):
    root, _ = campaign
    options = {"split": None, "batch_size": 6, "seed": 4}
    for one, other in zip(BatchStream(root, **options), ChipLoader(root, **options), strict=True):
        assert list(one) == list(other)
        for name, values in one.items():
            assert isinstance(values, np.ndarray)
            np.testing.assert_array_equal(values, other[name].numpy())
    program = f"""
import sys
from m3etl.learn.batches import BatchStream
stream = BatchStream({str(root)!r}, split=None, batch_size=4)
assert not {{"torch", "numba", "rasterio", "zarr", "ee", "pandas"}} & set(sys.modules), sorted(sys.modules)
assert len(next(iter(stream))["row"]) == 4
assert "torch" not in sys.modules
"""
    folder = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shuffle", ["none", "window", "full"])
def test_over_http_the_same_batches_in_fewer_requests(campaign, shuffle):
    root, _ = campaign
    options = {
        "split": None,
        "batch_size": 3,
        "shuffle": shuffle,
        "view": View(flips=True),
        "arrays": ["sentinel2_l2a"],
    }
    with range_server(root) as server:
        there = ChipLoader(server.url, **options)
        for _ in range(2):
            here = ChipLoader(root, **options)
            here.set_epoch(there.state_dict()["epoch"])
            for one, other in zip(here, there, strict=True):
                assert torch.equal(one["row"], other["row"])
                assert torch.equal(one["sentinel2_l2a"], other["sentinel2_l2a"])
        answers = server.ranges_of("/data/c.")
        chunks = int(there.store.present("sentinel2_l2a").sum())
    assert len(answers) < 6 + chunks
    assert sum(end - start for _, start, end in answers) < 1.5 * sum(
        file.stat().st_size for file in (root / "chips.zarr" / "sentinel2_l2a" / "data").glob("c.*")
    )


def test_breaking_off_a_remote_pass_stops_its_requests(campaign):
    root, _ = campaign
    with range_server(root) as server:
        store = ChipStore(
            open_source(f"{server.url}/chips.zarr", CachePlace(nbytes=20_000)), open_store(root / "chips.zarr").layout
        )
        loader = ChipLoader(store, split=None, batch_size=2)
        for _ in range(3):
            for _ in loader:
                break
        wait(list(store.source._waiting), timeout=30)  # those that had begun
        assert not store.source._waiting
        assert len(rows_of(loader)) == 12


@pytest.mark.parametrize("change", [{"seed": 1}, {"shuffle": "full"}, {"split": "train"}])
def test_a_state_of_another_stream_is_refused(campaign, change):
    root, _ = campaign
    options = {"arrays": ["biome"], "split": None, "batch_size": 4}
    state = ChipLoader(root, **options).state_dict()
    with pytest.raises(InputError, match="cannot resume"):
        ChipLoader(root, **{**options, **change}).load_state_dict(state)


def test_tiny_data_set_in_a_large_batch(tmp_path):
    make_store(tmp_path / "chips.zarr", few_specs, count=3, splits=("train",))
    loader = ChipLoader(tmp_path, batch_size=16)
    assert [sorted(rows) for rows in rows_of(loader)] == [[0, 1, 2]]
    with pytest.raises(InputError, match="3 chips fill no batch"):
        ChipLoader(tmp_path, batch_size=16, drop_last=True)
    with pytest.raises(NothingSelectedError, match="split val"):
        ChipLoader(tmp_path, batch_size=16, split="val")


def test_padding_is_never_yielded(campaign):
    root, _ = campaign
    loader = ChipLoader(root, arrays=["biome"], split=None, batch_size=4)
    assert loader.store.rows == 24
    assert 23 not in [row for rows in rows_of(loader) for row in rows]


def test_memory_is_used_again(campaign):
    root, _ = campaign
    loader = ChipLoader(root, arrays=["sentinel2_l2a"], split=None, batch_size=2, threads=1)
    for _ in range(3):
        places = {batch["sentinel2_l2a"].data_ptr() for batch in loader}
    assert len(places) < 12
    assert len(loader._ring._slots) == len(
        places | {slot.buffers["sentinel2_l2a"].ctypes.data for slot in loader._ring._slots}
    )


def test_batches_that_are_kept_stay_as_they_are(campaign):
    root, chips = campaign
    loader = ChipLoader(root, arrays=["sentinel2_l2a"], split=None, batch_size=2)
    kept = [
        part
        for _ in range(2)
        for batch in loader
        for part in zip(batch["row"].tolist(), batch["sentinel2_l2a"], strict=True)
    ]
    assert len(kept) == 46
    spec = few_specs[0]
    for row, values in kept:
        np.testing.assert_array_equal(values.numpy(), stored_or_fill(chips[row], spec))


def test_breaking_off_leaves_the_ring_whole(campaign):
    root, _ = campaign
    loader = ChipLoader(root, arrays=["biome"], split=None, batch_size=2)
    for _ in range(20):
        for _ in loader:
            break
    assert all(not slot.busy for slot in loader._ring._slots)
    assert len(rows_of(loader)) == 12


@pytest.mark.parametrize("shuffle", ["window", "none"])
def test_damage_is_raised_and_named(tmp_path, shuffle):
    make_store(tmp_path / "chips.zarr", few_specs, count=8, missing=0.0, splits=("train",))
    path = ChipLoader(tmp_path, batch_size=2).store.shard_path("worldcover", 1)
    content = bytearray(path.read_bytes())
    content[30] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="worldcover of chip"):
        rows_of(ChipLoader(tmp_path, batch_size=2, shuffle=shuffle))


def test_wrong_options_are_named(campaign):
    root, _ = campaign
    for options, reason in (
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1, "shuffle": "riffle"}, "riffle"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, "rank"),
        ({"batch_size": 1, "threads": 0}, "threads"),
    ):
        with pytest.raises(InputError, match=reason):
            ChipLoader(root, **options)
