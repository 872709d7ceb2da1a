"""The map-style data set: values of each kind, missing arrays, selection, and life in DataLoader workers."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from fakes.chips import few_specs, make_store, stored_or_fill
from fakes.range_server import range_server
from torch.utils.data import DataLoader

from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.store import open_store
from m3etl.learn.dataset import ChipDataset, select_rows, stack_samples
from m3etl.learn.view import View
from m3etl.spec.modality import Values, physical_of, valid_of
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import SilentProgress


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    root = tmp_path_factory.mktemp("campaign")
    chips = make_store(root / "chips.zarr", few_specs, count=11, missing=0.3)
    store = open_store(root / "chips.zarr")
    stats = measure_store(store, np.flatnonzero(store.split == "train"), SilentProgress(), threads=1)
    (root / "stats.json").write_text(json.dumps({**stats, "dataset_id": "x"}))
    return root, chips, stats


def test_stored_and_physical_values(campaign):
    root, chips, _ = campaign
    train = [chip for chip in chips if chip.split == "train"]
    stored = ChipDataset(root, values="stored")
    physical = ChipDataset(root, values="physical")
    assert len(stored) == len(train)
    for position, chip in enumerate(train):
        one, other = stored[position], physical[position]
        assert (one["row"], one["chip_id"]) == (chip.row, chip.chip_id)
        for spec in few_specs:
            expected = stored_or_fill(chip, spec)
            np.testing.assert_array_equal(one[spec.name].numpy(), expected)
            np.testing.assert_array_equal(one[f"{spec.name}_valid"].numpy(), valid_of(spec, expected))
            if spec.values is Values.CLASSES:
                assert (other[spec.name].numpy()[expected == spec.fill] == -1).all()
                assert other[spec.name].dtype == torch.int64
            else:
                np.testing.assert_array_equal(other[spec.name].numpy(), physical_of(spec, expected).astype(np.float32))


def test_normalised_values_are_the_normalizers(campaign):
    root, chips, stats = campaign
    dataset = ChipDataset(root, arrays=["sentinel2_l2a", "worldcover"], split=None)
    assert len(dataset) == len(chips)
    normalizer = Normalizer.from_stats(stats, few_specs)
    for position, chip in enumerate(chips):
        stored = {
            spec.name: torch.from_numpy(stored_or_fill(chip, spec)) for spec in few_specs if spec.name in dataset.specs
        }
        for name, values in normalizer(stored).items():
            assert torch.equal(dataset[position][name], values)


def test_in_dataloader_workers(campaign):
    root, _, _ = campaign
    dataset = ChipDataset(
        root, split=None, values="stored", view=View(crop_px=8, random_crop=True, flips=True, upsample=True)
    )
    expected = [dataset[position] for position in range(len(dataset))]
    loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="fork")
    rows = []
    for batch in loader:
        for place, row in enumerate(batch["row"].tolist()):
            rows.append(row)
            for spec in few_specs:
                np.testing.assert_array_equal(batch[spec.name][place].numpy(), expected[row][spec.name].numpy())
    assert rows == list(range(11))


def test_in_spawned_workers_and_over_http(campaign):
    root, _, _ = campaign
    view = View(crop_px=8, random_crop=True, flips=True, bands={"sentinel2_l2a": ("B4", "B3", "B2")})
    options = {"arrays": ["sentinel2_l2a", "biome"], "split": None, "view": view}
    here = ChipDataset(root, **options)
    with range_server(root) as server:
        there = ChipDataset(server.url, **options)
        stock = DataLoader(there, batch_size=4, num_workers=1, multiprocessing_context="spawn")
        batches = list(stock)
    assert [row for batch in batches for row in batch["row"].tolist()] == list(range(11))
    for name in ("sentinel2_l2a", "sentinel2_l2a_valid", "biome"):
        found = torch.cat([batch[name] for batch in batches])
        assert torch.equal(found, torch.stack([here[position][name] for position in range(11)]))
    assert batches[0]["sentinel2_l2a"].shape == (4, 3, 8, 8)


def test_bands_by_name_are_normalised_as_in_the_whole(campaign):
    root, _, _ = campaign
    whole = ChipDataset(root, arrays=["sentinel2_l2a"], split=None)
    two = ChipDataset(root, arrays=["sentinel2_l2a"], split=None, view=View(bands={"sentinel2_l2a": ["B8", "B2"]}))
    bands = whole.specs["sentinel2_l2a"].bands
    places = [bands.index("B8"), bands.index("B2")]
    assert two.specs["sentinel2_l2a"].bands == ("B8", "B2")
    for position in range(len(two)):
        for name in ("sentinel2_l2a", "sentinel2_l2a_valid"):
            assert torch.equal(two[position][name], whole[position][name][places])


def test_copies_for_spawned_workers_give_the_same(campaign):
    root, _, _ = campaign
    dataset = ChipDataset(root, split=None)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own object, as DataLoader sends it to workers
    assert len(copy) == len(dataset)
    assert torch.equal(copy[4]["sentinel2_l2a"], dataset[4]["sentinel2_l2a"])


def test_epochs_change_the_view_and_nothing_else_does(campaign):
    root, _, _ = campaign
    view = View(crop_px=4, random_crop=True)
    dataset = ChipDataset(
        root, arrays=["sentinel2_l2a"], split=None, values="stored", view=view, require=["sentinel2_l2a"]
    )
    first = [dataset[position]["sentinel2_l2a"] for position in range(len(dataset))]
    assert all(torch.equal(dataset[position]["sentinel2_l2a"], first[position]) for position in range(len(dataset)))
    dataset.set_epoch(1)
    assert any(not torch.equal(dataset[position]["sentinel2_l2a"], first[position]) for position in range(len(dataset)))


def test_required_arrays(campaign):
    root, chips, _ = campaign
    store = open_store(root / "chips.zarr")
    have = lambda chip, name: name in chip.arrays  # noqa: E731
    for require, keeps in (
        (("worldcover",), lambda chip: have(chip, "worldcover")),
        ((("worldcover", "biome"),), lambda chip: have(chip, "worldcover") or have(chip, "biome")),
        (("worldcover", "biome"), lambda chip: have(chip, "worldcover") and have(chip, "biome")),
    ):
        expected = [chip.row for chip in chips if keeps(chip)]
        assert 0 < len(expected) < len(chips)
        assert select_rows(store, None, require).tolist() == expected


def test_nothing_selected_says_what_was_asked(campaign, tmp_path):
    root, _, _ = campaign
    with pytest.raises(NothingSelectedError, match="split buffer"):
        ChipDataset(root, split="buffer", values="stored")
    make_store(tmp_path / "chips.zarr", few_specs, count=3, missing=1.0)
    with pytest.raises(
        NothingSelectedError, match=r"that have worldcover or biome and sentinel2_l2a; sealed chips: 2 in train"
    ):
        ChipDataset(tmp_path, values="stored", require=(("worldcover", "biome"), "sentinel2_l2a"))


def test_wrong_requests(campaign, tmp_path):
    root, _, _ = campaign
    with pytest.raises(InputError, match="no array nothing"):
        ChipDataset(root, arrays=["nothing"], values="stored")
    with pytest.raises(InputError, match="no array was named"):
        ChipDataset(root, arrays=[], values="stored")
    with pytest.raises(InputError, match="cooked"):
        ChipDataset(root, values="cooked")
    make_store(tmp_path / "chips.zarr", few_specs, count=3)
    with pytest.raises(InputError, match="no statistics"):
        ChipDataset(tmp_path)


def test_stacked_samples_are_a_batch(campaign):
    root, _, _ = campaign
    dataset = ChipDataset(root, split=None, values="stored")
    batch = stack_samples([dataset[2], dataset[5]])
    assert batch["row"].tolist() == [2, 5]
    assert batch["chip_id"] == [dataset[2]["chip_id"], dataset[5]["chip_id"]]
    assert batch["sentinel2_l2a"].shape == (2, 12, 16, 16)
    assert batch["sentinel2_l2a"].dtype == torch.uint16
