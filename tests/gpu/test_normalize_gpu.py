"""The normaliser on CUDA gives what it gives on the CPU: one call, batches on their way, and the normalised copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.chips import all_specs, few_specs, make_store

from m3etl.campaign import CampaignConfig, SampleConfig, create_campaign
from m3etl.compute.device import BatchNormalizer
from m3etl.compute.normalize import Normalizer
from m3etl.io.store import open_store
from m3etl.stages.materialize import normalized_path
from m3etl.stages.normalize import run_normalize
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import SilentProgress

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch finds none"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with every array and the statistics over it."""
    path = tmp_path_factory.mktemp("gpu") / "chips.zarr"
    make_store(path, all_specs, count=11)
    found = open_store(path)
    return found, measure_store(found, found.chip_ids.nonzero()[0], SilentProgress(), threads=1)


def assert_same(found, expected, dtype):
    assert set(found) == set(expected)
    for name, values in found.items():
        assert values.device.type == "cuda"
        if values.is_floating_point():
            torch.testing.assert_close(values.cpu(), expected[name], rtol=torch.finfo(dtype).eps, atol=1e-5)
        else:
            assert torch.equal(values.cpu(), expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_equals_cpu(store, dtype, compiled):
    chips, stats = store
    normalizer = Normalizer.from_stats(stats, list(chips.specs.values()))
    batch = {name: torch.from_numpy(chips.read(name, range(8))) for name in chips.specs}
    expected = normalizer(batch, dtype)
    on_device = normalizer.to("cuda")
    run = torch.compile(on_device, fullgraph=True) if compiled else on_device
    assert_same(run({name: values.cuda() for name, values in batch.items()}, dtype), expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batches_on_their_way_are_not_mixed_up(store, dtype):
    chips, stats = store
    specs = list(chips.specs.values())
    plain = Normalizer.from_stats(stats, specs)
    shapes = {spec.name: (chips.chip_shape(spec.name), spec.dtype) for spec in specs}
    runner = BatchNormalizer(Normalizer.from_stats(stats, specs), shapes, batch_size=4, device="cuda", dtype=dtype)
    parts = [np.random.default_rng(number).permutation(11)[: 4 if number % 3 else 3] for number in range(9)]

    def fill(rows, buffers):
        for name, buffer in buffers.items():
            chips.read_into(name, rows, buffer)

    slow = torch.rand(2048, 2048, device="cuda")
    seen = []
    for rows, values in runner.run(iter(parts), fill):
        for _ in range(10):
            slow = slow @ slow / 1024  # keeps the stream of computing behind the stream of copies
        seen.append((rows, {name: part.clone() for name, part in values.items()}))
    assert [rows.tolist() for rows, _ in seen] == [rows.tolist() for rows in parts]
    for rows, values in seen:
        expected = plain({name: torch.from_numpy(chips.read(name, rows)) for name in chips.specs}, dtype)
        assert_same(values, expected, dtype)


def test_the_normalised_copy_is_that_of_the_cpu(tmp_path):
    copies = {}
    for device in ("cpu", "cuda"):
        campaign = create_campaign(tmp_path / device, CampaignConfig(sample=SampleConfig(chip_px=16)))
        make_store(campaign.store_path, few_specs, count=7)
        summary = run_normalize(campaign, device=device, materialize=True, progress=SilentProgress())
        assert summary.facts["device"] == device
        copies[device] = open_store(normalized_path(campaign))
    for name, spec in copies["cpu"].specs.items():
        one, other = (copies[device].read(name, range(7)) for device in ("cpu", "cuda"))
        if np.dtype(spec.dtype).kind == "f":
            np.testing.assert_allclose(other, one, rtol=2**-10, atol=1e-5)
        else:
            np.testing.assert_array_equal(other, one)
