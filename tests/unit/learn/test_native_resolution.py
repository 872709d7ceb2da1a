"""Layers of 100 m beside pixels of 10 m: stored with their own pixels and corners, and on the fine grid when asked for,
each kind by its rule.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3etl.io.store import SealedChip, create_store, grow_store, open_store, seal_shard
from m3etl.learn.dataset import ChipDataset
from m3etl.learn.view import View
from m3etl.spec.catalog import find_array
from m3etl.spec.modality import ArraySpec, Values

side_m, side = 4480.0, 448
coarse = 45  # pixels of 99.56 m
centres = (np.arange(coarse) + 0.5) * side_m / coarse
fine = (np.arange(side) + 0.5) * 10.0
south, east = np.meshgrid(centres, centres, indexing="ij")
fine_south, fine_east = np.meshgrid(fine, fine, indexing="ij")

biomass = replace(find_array("biomass"), bands=("agb",), program=None, recipe="made")
# 100 m layers of the other kinds: a map of classes, an angle as a point on the circle, backscatter, labels to copy.
labels = replace(find_array("worldcover"), name="labels", native_gsd_m=100.0, recipe="made")
aspect = replace(find_array("srtm_aspect"), name="aspect", native_gsd_m=100.0)
backscatter = replace(find_array("sentinel1_asc"), name="backscatter", bands=("VV",), native_gsd_m=100.0, recipe="made")
orbit = replace(find_array("coherence_geometry"), bands=("orbit_1",), native_gsd_m=100.0, recipe="made")
specs = (biomass, labels, aspect, backscatter, orbit)
codes = np.array([10, 40, 80], np.uint8)


def made() -> dict[str, np.ndarray]:
    """Stored values: a plane, stripes of classes, an aspect that turns through north, two levels, two orbits."""
    turn = np.radians(350.0 + 20.0 * (east > side_m / 2))  # 350 degrees in the west, 10 in the east
    values = {
        "biomass": np.rint(0.2 * east + 0.1 * south).astype(np.uint16)[None],
        "labels": codes[(np.arange(coarse) % 3)][None, :, None].repeat(coarse, axis=2),
        "aspect": np.stack([np.sin(turn), np.cos(turn)]).astype(np.float32),
        "backscatter": np.where(east < side_m / 2, 0, -2000).astype(np.int16)[None],
        "coherence_geometry": np.where(south < side_m / 2, 15, 166).astype(np.uint8)[None],
    }
    for spec in specs:
        values[spec.name][:, :5, :5] = spec.fill_value()
    return values


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("native")
    create_store(root / "chips.zarr", specs, chip_m=side_m, shard_chips=1)
    chip = SealedChip(
        row=0, chip_id="32632-4480-0110-1100", lon=9.0, lat=45.0, epsg=32632, xmin=492_800.0, ymax=4_932_480.0,
        split="train", arrays=made(),
    )  # fmt: skip
    seal_shard(root / "chips.zarr", 0, [chip], threads=1)
    grow_store(root / "chips.zarr", 1)
    return root


def shown(place: Path, name: str, **view: object) -> np.ndarray:
    dataset = ChipDataset(place, arrays=[name], values="physical", view=View(**view))  # type: ignore[arg-type]
    return dataset[0][name].numpy()  # type: ignore[no-any-return]


def under(values: np.ndarray) -> np.ndarray:
    """Each fine pixel's coarse pixel."""
    at = (fine * coarse / side_m).astype(int)
    return values[..., at[:, None], at]


@pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.name)
def test_45_pixels_of_99_56_m_with_the_corners_of_the_chip(place: Path, spec: ArraySpec) -> None:
    store = open_store(place / "chips.zarr")
    assert spec.chip_shape(side_m) == (len(spec.bands), coarse, coarse)
    np.testing.assert_array_equal(store.read(spec.name, [0])[0], made()[spec.name])
    import xarray

    attributes = xarray.open_zarr(place / "chips.zarr", group=spec.name).data.attrs
    assert attributes["gsd_m"] == pytest.approx(99.5556, abs=1e-4)
    assert attributes["native_gsd_m"] == 100.0
    assert coarse * attributes["gsd_m"] == pytest.approx(side_m)


def test_nothing_is_blown_up_unasked(place: Path) -> None:
    assert shown(place, "biomass").shape == (1, coarse, coarse)
    assert shown(place, "biomass", upsample=True).shape == (1, side, side)


def test_continuous_layers_are_interpolated_between_pixel_centres(place: Path) -> None:
    found = shown(place, "biomass", upsample=True)[0]
    expected = 0.2 * np.clip(fine_east, centres[0], centres[-1]) + 0.1 * np.clip(fine_south, centres[0], centres[-1])
    known = np.isfinite(found)
    assert np.abs(found - expected)[known][6:].max() <= 10.0, "beside the gap one side is missing"
    away = known & ((fine_east > 700) | (fine_south > 700))
    assert np.abs(found - expected)[away].max() <= 1.01, "rounded where stored and where shown"


def test_classes_take_the_pixel_under_the_centre(place: Path) -> None:
    stored = made()["labels"][0]
    found = shown(place, "labels", upsample=True)[0]
    np.testing.assert_array_equal(found, np.where(under(stored) == 255, -1, under(stored).astype(int)))
    assert set(np.unique(found)) == {-1, 10, 40, 80}, "10 and 80 are never 45"


def test_angles_turn_through_north_and_not_through_south(place: Path) -> None:
    sine, cosine = shown(place, "aspect", upsample=True)
    known = np.isfinite(sine)
    degrees = (np.degrees(np.arctan2(sine, cosine))[known] + 180.0) % 360.0 - 180.0
    assert np.abs(degrees).max() <= 10.0 + 1e-3, "between 350 and 10 degrees lies 0, not 180"
    assert (np.abs(degrees) < 2.0).any()
    assert (np.hypot(sine, cosine)[known] > 0.98).all()


def test_backscatter_is_interpolated_in_linear_power(place: Path) -> None:
    found = shown(place, "backscatter", upsample=True)[0]
    between = found[-1][(found[-1] < -0.05) & (found[-1] > -19.95)]
    assert between.size == 10, "one coarse pixel wide"
    share = np.interp(fine, centres, (centres >= side_m / 2).astype(float))[(found[-1] < -0.05) & (found[-1] > -19.95)]
    np.testing.assert_allclose(between, 10 * np.log10((1 - share) + share * 0.01), atol=0.006)


def test_numbers_of_orbits_are_copied(place: Path) -> None:
    found = shown(place, "coherence_geometry", upsample=True)[0]
    assert set(np.unique(found[np.isfinite(found)])) == {15.0, 166.0}


@pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.name)
def test_the_gap_keeps_its_footprint(place: Path, spec: ArraySpec) -> None:
    found = shown(place, spec.name, upsample=True)
    missing = found == -1 if spec.values is Values.CLASSES else np.isnan(found)
    gap = np.zeros((side, side), bool)
    gap[: round(5 * side / coarse), : round(5 * side / coarse)] = True
    np.testing.assert_array_equal(missing, np.broadcast_to(gap, missing.shape))


def test_a_crop_is_a_part_of_the_whole(place: Path) -> None:
    whole = shown(place, "biomass", upsample=True)
    middle = (side - 128) // 2
    np.testing.assert_array_equal(
        shown(place, "biomass", upsample=True, crop_px=128), whole[:, middle : middle + 128, middle : middle + 128]
    )
