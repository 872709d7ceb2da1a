"""Registration over a sealed store: a clean one is in place, a planted 0.7 px shift of one array is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import shift as moved

from m3etl.io.store import ChipStore, SealedChip, create_store, grow_store, open_store, seal_shard
from m3etl.spec.catalog import find_array
from m3etl.stages.registration import find_shifted, measure_registration

names = ("sentinel2_l2a", "sentinel1_asc", "worldcover", "aster_elevation")
chip_px = 64
chips = 60


def made_store(path: Path, *, shift_px: float) -> ChipStore:
    """Chips of parcels seen by every sensor in its own way; Sentinel-1 lies `shift_px` to the right."""
    specs = [find_array(name) for name in names]
    create_store(path, specs, chip_m=chip_px * 10.0, shard_chips=64, codec="zstd")
    grow_store(path, 64)
    rng = np.random.default_rng(11)
    seal_shard(path, 0, [made_chip(row, specs, shift_px, rng) for row in range(chips)])
    return open_store(path)


def made_chip(row: int, specs, shift_px: float, rng: np.random.Generator) -> SealedChip:
    points = rng.uniform(0, chip_px, (40, 2))
    ys, xs = np.indices((chip_px, chip_px))
    parcels = np.argmin([(ys - y) ** 2 + (xs - x) ** 2 for y, x in points], axis=0)
    optics, radar, codes = (
        rng.uniform(300, 4000, 40),
        rng.uniform(-2000, -500, 40),
        rng.choice([10, 30, 40, 50, 80], 40),
    )
    backscatter = moved(radar[parcels], (0, shift_px), order=1, mode="nearest")
    speckled = backscatter + 1000 * np.log10(rng.gamma(4.4, 1 / 4.4, backscatter.shape))
    layers = {
        "sentinel2_l2a": optics[parcels] + rng.normal(0, 20, parcels.shape),
        "sentinel1_asc": np.clip(speckled, -5000, 2000),
        "worldcover": codes[parcels],
        "aster_elevation": rng.normal(300, 20, (21, 21)),
    }
    arrays = {
        spec.name: np.broadcast_to(np.rint(layers[spec.name]), spec.chip_shape(chip_px * 10.0)).astype(spec.dtype)
        for spec in specs
    }
    return SealedChip(
        row=row, chip_id=f"chip-{row}", lon=9.0, lat=50.0, epsg=32632, xmin=0.0, ymax=0.0, split="train", arrays=arrays
    )


def test_arrays_in_place_are_called_so(tmp_path: Path) -> None:
    measured = {item.array: item for item in measure_registration(made_store(tmp_path / "s", shift_px=0.0), seed=0)}
    assert {name: item.verdict for name, item in measured.items()} == {
        "sentinel1_asc": "in place",
        "worldcover": "in place",
        "aster_elevation": "too little detail in common",
    }
    assert find_shifted(list(measured.values())) == []


def test_a_planted_shift_of_0_7_px_is_found(tmp_path: Path) -> None:
    measured = measure_registration(made_store(tmp_path / "s", shift_px=0.7), seed=0)
    (finding,) = find_shifted(measured)
    assert (finding.check, finding.array) == ("registration", "sentinel1_asc")
    (radar,) = [item.shift for item in measured if item.array == "sentinel1_asc"]
    assert radar is not None
    assert radar.chips >= 50
    assert (radar.x_px, radar.y_px) == pytest.approx((0.7, 0.0), abs=0.15)
