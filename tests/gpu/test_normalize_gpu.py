"""The normaliser on CUDA gives what it gives on the CPU."""

from __future__ import annotations

import pytest
import torch
from fakes.chips import all_specs, make_store

from m3etl.compute.normalize import Normalizer
from m3etl.io.store import open_store
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import SilentProgress

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch finds none"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_equals_cpu(tmp_path, dtype, compiled):
    make_store(tmp_path / "s", all_specs, count=8)
    store = open_store(tmp_path / "s")
    stats = measure_store(store, store.chip_ids.nonzero()[0], SilentProgress(), threads=1)
    normalizer = Normalizer.from_stats(stats, list(store.specs.values()))
    batch = {name: torch.from_numpy(store.read(name, range(8))) for name in store.specs}
    expected = normalizer(batch, dtype)
    on_device = normalizer.to("cuda")
    run = torch.compile(on_device, fullgraph=True) if compiled else on_device
    found = run({name: values.cuda() for name, values in batch.items()}, dtype)
    assert set(found) == set(expected)
    for name, values in found.items():
        assert values.device.type == "cuda"
        if values.is_floating_point():
            torch.testing.assert_close(values.cpu(), expected[name], rtol=torch.finfo(dtype).eps, atol=1e-5)
        else:
            assert torch.equal(values.cpu(), expected[name])
