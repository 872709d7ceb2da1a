"""Remote stores: equal to the files bit for bit, few and large requests, a bounded cache, failures with an address."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import obstore
import pytest
import zarr
from fakes.chips import few_specs, make_store
from fakes.range_server import range_server
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from m3etl.errors import AuthenticationError, DamagedError, InputError, RemoteError
from m3etl.io import decoding, remote
from m3etl.io.endpoints import ObstoreObjects, open_objects
from m3etl.io.remote import CachePlace, RemoteSource, open_source
from m3etl.io.shards import codec_names
from m3etl.io.store import ChipStore, open_store, read_stats

chips = 23


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A store as files, with its values read from there."""
    root = tmp_path_factory.mktemp("published")
    make_store(root / "chips.zarr", few_specs, count=chips, missing=0.2, shard_chips=8)
    (root / "stats.json").write_text('{"worldcover": {}}')
    store = open_store(root / "chips.zarr")
    return root, {spec.name: store.read(spec.name, range(chips)) for spec in few_specs}


@pytest.fixture
def server(published):
    with range_server(published[0]) as running:
        yield running


def check_equal(store: ChipStore, expected) -> None:
    rows = np.random.default_rng(0).permutation(chips)
    for name, values in expected.items():
        np.testing.assert_array_equal(store.read(name, rows, threads=3), values[rows])


def test_over_http_equals_the_files(published, server):
    _, expected = published
    store = open_store(f"{server.url}/chips.zarr")
    check_equal(store, expected)
    assert (store.chip_ids != "").sum() == chips
    assert read_stats(f"{server.url}/stats.json") == {"worldcover": {}}
    assert not store.present("sentinel2_l2a").all()


@pytest.mark.parametrize("codec", codec_names)
@pytest.mark.parametrize("way", ["python", "native"])
def test_every_codec_over_http_is_what_zarr_python_reads(tmp_path, codec, way):
    make_store(tmp_path / "chips.zarr", few_specs, count=11, shard_chips=4, missing=0.3, codec=codec)
    assert decoding.load_native()
    if way == "python":
        decoding.forget_native()
    rows = np.random.default_rng(1).permutation(12)
    try:
        with range_server(tmp_path) as running:
            for threads in (1, 2, 16):
                store = open_store(f"{running.url}/chips.zarr")
                for spec in few_specs:
                    expected = zarr.open_array(tmp_path / "chips.zarr" / spec.name / "data", mode="r")[:]
                    assert store.read(spec.name, rows, threads=threads).tobytes() == expected[rows].tobytes()
    finally:
        decoding.load_native()


def test_from_an_object_store(published):
    root, expected = published
    bucket = MemoryStore()
    for file in (root / "chips.zarr").rglob("*"):
        if file.is_file():
            obstore.put(bucket, file.relative_to(root / "chips.zarr").as_posix(), file.read_bytes())
    source = RemoteSource(ObstoreObjects("memory://bucket", bucket), CachePlace())
    check_equal(ChipStore(source, open_store(root / "chips.zarr").layout), expected)


def test_through_fsspec(published):
    root, expected = published
    files = fsspec.filesystem("memory")
    files.put(str(root), "/published", recursive=True)
    try:
        check_equal(open_store("memory://published/chips.zarr"), expected)
    finally:
        files.rm("/published", recursive=True)


def test_through_a_file_url(published):
    root, expected = published
    check_equal(open_store(f"file://{root}/chips.zarr"), expected)


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_from_the_hub_with_the_users_login(published, server, monkeypatch, revision):
    _, expected = published
    server.token = "hf_mine"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_mine")
    url = f"hf://datasets/org/name{revision}/chips.zarr"
    check_equal(open_store(url), expected)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(AuthenticationError, match="hf auth login"):
        open_store(url)


def test_neighbours_are_one_request(published, server):
    _, expected = published
    store = open_store(f"{server.url}/chips.zarr")
    store.prefetch(["sentinel2_l2a"], range(8))
    np.testing.assert_array_equal(store.read("sentinel2_l2a", range(8)), expected["sentinel2_l2a"][:8])
    index, *pieces = server.ranges_of("sentinel2_l2a/data/c.0")
    assert len(pieces) == 1
    store.read("sentinel2_l2a", [1, 7, 4], threads=2)
    assert len(server.ranges_of("sentinel2_l2a/data/c.0")) == 2
    assert pieces[0][2] <= index[1]


@settings(max_examples=30)
@given(
    wanted=st.lists(st.integers(0, 7), min_size=1, unique=True),
    gap=st.sampled_from([0, 300, 10**6]),
    longest=st.sampled_from([1, 900, 10**6]),
)
def test_pieces_cover_what_is_wanted_and_keep_their_bounds(published, wanted, gap, longest):
    root, _ = published
    source = open_source(f"file://{root}/chips.zarr")
    shard = source.open_shard("worldcover/data/c.0.0.0.0", 8, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "widest_gap_bytes", gap)
        patch.setattr(remote, "longest_piece_bytes", longest)
        pieces = shard.pieces(wanted)
    stored = {place for place in wanted if shard.present[place]}
    assert sorted(place for *_, within in pieces for place in within) == sorted(stored)
    for start, end, within in pieces:
        extents = shard.index[within].astype(int)
        assert (start, end) == (extents[:, 0].min(), extents.sum(axis=1).max())
        assert end - start <= longest or len(within) == 1
    for (_, before, _), (after, _, _) in pairwise(pieces):
        assert before <= after


def test_the_cache_is_bounded_and_what_was_dropped_comes_again(published, server):
    _, expected = published
    source = open_source(f"{server.url}/chips.zarr", CachePlace(nbytes=6000))
    store = ChipStore(source, open_store(published[0] / "chips.zarr").layout)
    for _ in range(2):
        for first in range(0, chips, 4):
            rows = range(first, min(first + 4, chips))
            for name, values in expected.items():
                store.prefetch([name], rows)
                np.testing.assert_array_equal(store.read(name, rows, threads=2), values[rows.start : rows.stop])
                assert source.cached_bytes <= 6000
    assert len(server.log) > 60


def test_a_bad_copy_is_fetched_again_and_a_bad_original_is_named(published, tmp_path):
    root, expected = published
    shutil.copytree(root, tmp_path / "copy")
    with range_server(tmp_path / "copy") as running:
        store = open_store(f"{running.url}/chips.zarr")
        store.read("sentinel2_l2a", range(8))
        for shard in store.source._shards:
            shard.forget()
            shard._fetched[:] = True
        np.testing.assert_array_equal(store.read("sentinel2_l2a", range(8)), expected["sentinel2_l2a"][:8])
        path = tmp_path / "copy" / "chips.zarr" / "sentinel2_l2a" / "data" / "c.1.0.0.0"
        content = path.read_bytes()
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        with pytest.raises(DamagedError) as caught:
            store.read("sentinel2_l2a", range(8, 16))
        assert f"{running.url}/chips.zarr/sentinel2_l2a/data/c.1.0.0.0" in caught.value.message
        assert "sentinel2_l2a of chip 32632-160-00" in caught.value.message
        path.write_bytes(content[:-50])
        with pytest.raises(DamagedError, match=r"sentinel2_l2a of chips .*c\.1\.0\.0\.0.*(damaged|cut short)"):
            open_store(f"{running.url}/chips.zarr").read("sentinel2_l2a", [9])
        path.unlink()
        with pytest.raises(DamagedError, match="the file is missing"):
            open_store(f"{running.url}/chips.zarr").read("sentinel2_l2a", [9])


def test_a_shard_cut_short_after_it_was_opened(published, tmp_path):
    shutil.copytree(published[0], tmp_path / "copy")
    with range_server(tmp_path / "copy") as running:
        store = open_store(f"{running.url}/chips.zarr")
        rows = np.flatnonzero(store.present("sentinel2_l2a")[:8])
        path = tmp_path / "copy" / "chips.zarr" / "sentinel2_l2a" / "data" / "c.0.0.0.0"
        path.write_bytes(path.read_bytes()[:2000])
        store.prefetch(["sentinel2_l2a"], rows.tolist())
        with pytest.raises((DamagedError, RemoteError), match="sentinel2_l2a"):
            store.read("sentinel2_l2a", rows)


def test_passing_refusals_are_retried_and_lasting_ones_said(published, server, monkeypatch):
    _, expected = published
    server.refuse = 2
    check_equal(open_store(f"{server.url}/chips.zarr"), expected)
    store = open_store(f"{server.url}/chips.zarr")
    server.no_ranges = True
    with pytest.raises(RemoteError, match=r"cannot read http.*sentinel2_l2a"):
        store.read("sentinel2_l2a", [1])


def test_what_is_no_store_or_no_url(server, monkeypatch):
    with pytest.raises(InputError, match=f"no store at {server.url}/elsewhere"):
        open_store(f"{server.url}/elsewhere")
    with pytest.raises(InputError, match="no statistics"):
        read_stats(f"{server.url}/elsewhere/stats.json")
    for url in ("hf://models/org/name", "hf://datasets/org", "wrong://x/y"):
        with pytest.raises(InputError, match="://"):
            open_objects(url)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(InputError, match=r"m3etl\[remote\]"):
        open_objects("s3://bucket/folder")


def test_copies_for_other_processes_open_anew(published, server):
    _, expected = published
    store = open_store(f"{server.url}/chips.zarr")
    check_equal(store, expected)
    check_equal(pickle.loads(pickle.dumps(store)), expected)  # noqa: S301 - our own object


def test_a_forked_process_is_told_what_to_do(published, server):
    program = f"""
import os, sys
from m3etl.errors import InputError
from m3etl.io.store import open_store
store = open_store({f"{server.url}/chips.zarr"!r})
if os.fork() == 0:
    try:
        store.read("worldcover", [0])
    except InputError as error:
        os._exit(7 if "spawn" in error.hint else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    folder = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done.stderr
