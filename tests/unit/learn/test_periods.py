"""Arrays with periods as readers get them: an axis of their own, chosen by name, normalised by their own statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fakes.chips import chip_m, make_store, stored_or_fill
from fakes.learning import write_campaign

from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError
from m3etl.io.store import open_store
from m3etl.learn.batches import BatchStream
from m3etl.learn.dataset import ChipDataset
from m3etl.learn.loader import ChipLoader
from m3etl.learn.view import View
from m3etl.spec.catalog import find_array
from m3etl.spec.modality import physical_of
from m3etl.stages.materialize import normalized_spec
from m3etl.stages.pretrain import run_pretrain
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import SilentProgress

seasons = find_array("sentinel1_asc_seasons")
coherence = find_array("coherence")
optical = find_array("sentinel2_l2a")
specs = (seasons, coherence, optical)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    root = tmp_path_factory.mktemp("campaign")
    chips = make_store(root / "chips.zarr", specs, count=9, missing=0.2)
    store = open_store(root / "chips.zarr")
    stats = measure_store(store, np.flatnonzero(store.split == "train"), SilentProgress(), threads=1)
    (root / "stats.json").write_text(json.dumps({**stats, "dataset_id": "x"}))
    return root, chips, stats


def test_samples_have_an_axis_of_periods(campaign):
    root, chips, _ = campaign
    stored, physical = (ChipDataset(root, split=None, values=kind) for kind in ("stored", "physical"))
    for position, chip in enumerate(chips):
        one, other = stored[position], physical[position]
        assert one[seasons.name].shape == other[f"{seasons.name}_valid"].shape == (4, 6, 16, 16)
        assert one[optical.name].shape == (12, 16, 16)
        expected = stored_or_fill(chip, seasons)
        np.testing.assert_array_equal(one[seasons.name].numpy().reshape(24, 16, 16), expected)
        np.testing.assert_array_equal(
            other[seasons.name][2, 3].numpy(),
            physical_of(seasons, expected)[seasons.bands.index("JJA_VH_mean")].astype(np.float32),
        )


def test_periods_and_bands_come_by_name(campaign):
    root, chips, _ = campaign
    view = View(bands={seasons.name: ["VH_mean", "VV_std"]}, periods={seasons.name: ["SON", "DJF", "MAM"]})
    dataset = ChipDataset(root, split=None, view=view)
    whole = ChipDataset(root, split=None)
    batch = next(iter(ChipLoader(root, split=None, batch_size=9, view=view, shuffle="none")))
    assert batch[seasons.name].shape == (9, 3, 2, 16, 16)
    for position, chip in enumerate(chips):
        expected = whole[position][seasons.name][[3, 0, 1]][:, [3, 2]]
        assert torch.equal(dataset[position][seasons.name], expected)
        stored = stored_or_fill(chip, seasons)
        for place, name in enumerate(dataset.specs[seasons.name].bands):
            period, band = divmod(place, 2)
            np.testing.assert_array_equal(batch[seasons.name][position, period, band],
                                          stored[seasons.bands.index(name)])  # fmt: skip
    assert dataset.specs[seasons.name].bands[:2] == ("SON_VH_mean", "SON_VV_std")


def test_each_period_has_its_own_statistics(campaign):
    _, chips, stats = campaign
    assert set(stats[seasons.name]) == set(seasons.bands)
    train = [chip for chip in chips if chip.split == "train"]
    values = np.stack([physical_of(seasons, stored_or_fill(chip, seasons)) for chip in train])
    for period in seasons.periods:
        entry = stats[seasons.name][f"{period}_VV_mean"]
        found = values[:, seasons.bands.index(f"{period}_VV_mean")]
        assert entry["mean"] == pytest.approx(np.nanmean(found))
        assert entry["count"] == np.isfinite(found).sum()


def test_crops_turns_and_upsampling_are_alike_in_all_periods(campaign):
    root, _, _ = campaign
    view = View(crop_px=8, random_crop=True, flips=True, upsample=True)
    dataset = ChipDataset(root, split=None, values="stored", view=view, seed=3)
    assert dataset[0][coherence.name].shape == (4, 6, 8, 8)
    loader = ChipLoader(root, split=None, batch_size=4, view=view, seed=3)
    assert loader.shapes[coherence.name] == (4, 6, 8, 8)
    for batch in loader:
        for place, row in enumerate(batch["row"].tolist()):
            for spec in specs:
                assert torch.equal(batch[spec.name][place], dataset[row][spec.name])


def test_networks_get_the_bands_of_all_periods_in_one_axis(campaign):
    root, _, stats = campaign
    flat = BatchStream(root, split=None, batch_size=9, shuffle="none", flat_periods=True)
    own = BatchStream(root, split=None, batch_size=9, shuffle="none")
    assert flat.shapes[seasons.name] == seasons.chip_shape(chip_m) == (24, 16, 16)
    one, other = next(iter(flat)), next(iter(own))
    assert other[seasons.name].shape == (9, 4, 6, 16, 16)
    np.testing.assert_array_equal(one[seasons.name], other[seasons.name].reshape(9, 24, 16, 16))
    normalizer = Normalizer.from_stats(stats, specs)
    for dtype in (torch.float32, torch.bfloat16):
        here = normalizer({seasons.name: torch.from_numpy(one[seasons.name])}, dtype)
        there = normalizer({seasons.name: torch.from_numpy(other[seasons.name])}, dtype)
        again = normalizer({seasons.name: torch.from_numpy(other[seasons.name])}, dtype, there)
        for name, values in here.items():
            assert torch.equal(values, there[name].flatten(1, 2))
            assert again[name].data_ptr() == there[name].data_ptr(), "memory is used again"
        back = normalizer.inverse(seasons.name, there[seasons.name].float())
        assert torch.equal(back.flatten(1, 2), normalizer.inverse(seasons.name, here[seasons.name].float()))


def test_a_normalised_copy_keeps_the_periods():
    assert normalized_spec(seasons).periods == seasons.periods


def test_unknown_periods_are_refused(campaign):
    root, _, _ = campaign
    with pytest.raises(InputError, match="has no period winter; it has DJF, MAM, JJA, SON"):
        ChipDataset(root, split=None, view=View(periods={seasons.name: ["winter"]}))
    with pytest.raises(InputError, match="has no period DJF; it has none"):
        ChipDataset(root, split=None, view=View(periods={optical.name: ["DJF"]}))
    with pytest.raises(InputError, match="has no band DJF_VV_mean; it has VV_mean"):
        ChipDataset(root, split=None, view=View(bands={seasons.name: ["DJF_VV_mean"]}))
    with pytest.raises(InputError, match=r"periods of .* must be a list of different names"):
        ChipDataset(root, split=None, view=View(periods={seasons.name: ["DJF", "DJF"]}))


def test_pretraining_predicts_every_band_of_every_period(tmp_path):
    names = ("sentinel2_l2a", "sentinel2_dates", "sentinel1_asc_months")
    campaign = write_campaign(tmp_path / "c", names=names, splits=("train",) * 8, chip_px=32)
    summary = run_pretrain(campaign, overrides=few_steps, progress=SilentProgress())
    run = next((campaign.root / "runs").iterdir())
    assert {path.stem for path in (run / "pictures").iterdir()} == set(names)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {name for line in lines for name, value in line.items() if np.isfinite(value)}
    assert summary.done == 2
    assert {f"measured/train/{name}" for name in names} <= found


few_steps = ("model.size=atto", "model.decoder_width=32", "trainer.accelerator=cpu", "trainer.max_steps=2",
             "data.crop_px=32", "data.batch_size=4", "data.threads=1", "trainer.log_every=1",
             "trainer.validate_chips=4")  # fmt: skip
