"""Page-locked batches reach the device unharmed although their memory is used again at once."""

from __future__ import annotations

import pytest
import torch
from fakes.chips import few_specs, make_store

from m3etl.io.store import open_store
from m3etl.learn.loader import ChipLoader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch finds none"),
]


def test_copies_that_are_still_queued_see_their_own_batch(tmp_path):
    make_store(tmp_path / "chips.zarr", few_specs, count=32, splits=("train",), side_m=640.0)
    store = open_store(tmp_path / "chips.zarr")
    loader = ChipLoader(tmp_path, arrays=["sentinel2_l2a"], batch_size=2, pin_memory=True)
    slow = torch.rand(2048, 2048, device="cuda")
    found = []
    for batch in loader:
        assert batch["sentinel2_l2a"].is_pinned()
        for _ in range(20):
            slow = slow @ slow / 1024  # keeps the stream busy, so that copies wait
        found.append((batch["row"], batch["sentinel2_l2a"].to("cuda", non_blocking=True)))
    for row, values in found:
        assert torch.equal(values.cpu(), torch.from_numpy(store.read("sentinel2_l2a", row.numpy())))
