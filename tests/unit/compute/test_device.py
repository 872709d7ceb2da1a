"""Batches through kept memory: the same values as one call for each, whatever the sizes; nothing grows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.chips import all_specs, chip_m, make_values

from m3etl.compute.device import BatchNormalizer
from m3etl.compute.normalize import Normalizer
from m3etl.compute.stats import start_counts, summarise

names = ("sentinel2_l2a", "sentinel1_asc", "worldcover", "era5_temperature")
specs = [spec for spec in all_specs if spec.name in names]


@pytest.fixture(scope="module")
def data():
    """Eleven chips of each array and a normaliser for them."""
    stored = {
        spec.name: np.stack([make_values(spec, np.random.default_rng(row)) for row in range(11)]) for spec in specs
    }
    stats = {}
    for spec in specs:
        counts = start_counts(spec)
        for chip in stored[spec.name]:
            counts.add(chip)
        stats[spec.name] = summarise(spec, counts)
    return stored, Normalizer.from_stats(stats, specs)


def make_runner(normalizer, **options):
    chips = {spec.name: (spec.chip_shape(chip_m), spec.dtype) for spec in specs}
    return BatchNormalizer(normalizer, chips, device="cpu", **options)


def filling(stored):
    def fill(rows, buffers):
        for name, buffer in buffers.items():
            buffer[...] = stored[name][rows]

    return fill


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_batch_is_what_one_call_gives(data, dtype):
    stored, normalizer = data
    runner = make_runner(normalizer, batch_size=4, dtype=dtype)
    parts = np.array_split(np.random.default_rng(0).permutation(11), [4, 8])
    seen = []
    for rows, values in runner.run(parts, filling(stored)):
        seen += rows.tolist()
        expected = normalizer({name: torch.from_numpy(stored[name][rows]) for name in names}, dtype)
        assert set(values) == set(expected)
        for name, part in expected.items():
            assert torch.equal(values[name], part), name
    assert sorted(seen) == list(range(11))


def test_full_batches_use_the_same_memory(data):
    stored, normalizer = data
    runner = make_runner(normalizer, batch_size=4)
    places = {values["sentinel2_l2a"].data_ptr() for _, values in runner.run([np.arange(4)] * 5, filling(stored))}
    assert len(places) == 1


def test_no_batches_no_results(data):
    stored, normalizer = data
    assert list(make_runner(normalizer, batch_size=2).run([], filling(stored))) == []


def test_an_error_of_the_source_comes_through(data):
    def broken(rows, buffers):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(make_runner(data[1], batch_size=2).run([np.arange(2)], broken))
