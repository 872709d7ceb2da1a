"""The further rows of the catalogue on the planet: terrain across tiles, orbits kept apart, maps with their codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from m3etl.emulator.assets import open_assets
from m3etl.emulator.evaluate import Evaluator
from m3etl.errors import InputError
from m3etl.io.programs import orbit_image, program_image, terrain_image
from m3etl.spec.catalog import declare_arrays, find_array, known_arrays, licenses, select_arrays
from m3etl.spec.declarations import parse_declarations
from tests.fakes import ee_in_process
from tests.fakes.ee_in_process import ee

evaluator = Evaluator(open_assets(None))
geometry = "Earth_Big_Data/GLOBAL_SEASONAL_S1/V2019/INCIDENCE_LAYOVER_SHADOW"


@pytest.fixture(scope="module", autouse=True)
def client() -> Iterator[None]:
    with ee_in_process.client() as transport:
        transport.evaluator = evaluator
        yield


def grid(lon: float, lat: float, *, side: int = 24, pixel: float = 30.0) -> Any:
    """A grid in the place's UTM zone, centred on it."""
    import pyproj

    zone = int((lon + 180) // 6) + 1
    crs = f"EPSG:{32600 + zone}"
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    corner = (round(x / pixel) - side // 2) * pixel, (round(y / pixel) + side // 2) * pixel
    return ee_in_process.grid(crs, (pixel, 0.0, corner[0], 0.0, -pixel, corner[1]), side, side)


def bands(image: Any, on: Any) -> dict[str, np.ndarray]:
    raster = ee_in_process.pixels(evaluator, image, on)
    return {
        name: np.where(raster.valid[name], np.asarray(raster.bands[name], np.float64), np.nan) for name in raster.bands
    }


def ids(collection: str, lon: float, lat: float) -> list[str]:
    place = ee.Geometry.Point([lon, lat]).buffer(2_000)
    found = ee.ImageCollection(collection).filterBounds(place).aggregate_array("system:index").getInfo()
    return [f"{collection}/{index}" for index in found]


def test_slope_has_no_seam_between_tiles() -> None:
    lon, lat = 9.0, 46.5  # where two tiles of one degree meet
    tiles = ids("COPERNICUS/DEM/GLO30_2024_1", lon, lat)
    assert len(tiles) == 2
    on = grid(lon, lat)
    slope = bands(terrain_image(ee, find_array("copernicus_slope"), tiles), on)["slope"]
    assert not np.isnan(slope).any(), "a slope of each tile by itself would miss its edges"
    middle = slope[:, 11:13]
    assert middle.max() <= 1.5 * slope.max()
    assert ((slope >= 0) & (slope < 90)).all()
    assert not np.allclose(slope, np.rint(slope)), "whole degrees"
    height = bands(terrain_image(ee, find_array("copernicus_elevation"), tiles), on)["elevation"]
    down, right = np.gradient(height, 30.0)
    expected = np.degrees(np.arctan(np.hypot(down, right)))
    assert np.corrcoef(slope[2:-2, 2:-2].ravel(), expected[2:-2, 2:-2].ravel())[0, 1] > 0.9


def test_aspect_is_a_point_on_the_circle() -> None:
    found = bands(terrain_image(ee, find_array("srtm_aspect"), ["USGS/SRTMGL1_003"]), grid(8.5, 46.6))
    radius = np.hypot(found["sin_aspect"], found["cos_aspect"])
    assert np.nanmax(radius) <= 1 + 1e-6
    assert np.nanmedian(radius) > 0.8, "resampled between neighbours that look much the same way"


def test_elevation_below_the_sea_stays_below() -> None:
    # Dead Sea: uint16 would wrap to 65106.
    spec = find_array("srtm_elevation")
    assert np.dtype(spec.dtype).kind == "f"
    assert spec.stored_min <= -430 <= spec.stored_max


def test_each_orbit_keeps_its_incidence_angle() -> None:
    lon, lat = 8.5, 47.3
    images = ids(geometry, lon, lat)
    spec = find_array("coherence_geometry")
    found = bands(orbit_image(ee, spec, images), grid(lon, lat, pixel=92.7))
    numbers = sorted({int(name.rpartition("_")[2][:3]) for name in images})
    assert len(numbers) >= 2
    for slot, number in enumerate(numbers[:4], 1):
        seen = ~np.isnan(found[f"inc_{slot}"])
        assert set(np.unique(found[f"orbit_{slot}"][seen])) <= {float(number)}
        assert set(np.unique(found[f"lsmap_{slot}"][seen])) <= {1.0, 5.0, 17.0, 21.0}
    for slot in range(len(numbers) + 1, 5):
        assert np.isnan(found[f"inc_{slot}"]).all(), "a slot without an orbit"


def test_coherence_comes_by_name_whatever_a_tile_lacks() -> None:
    lon, lat = 20.5, 5.5
    spec = find_array("coherence")
    tiles = ids("Earth_Big_Data/GLOBAL_SEASONAL_S1/V2019/COHERENCE", lon, lat)
    have = {name for tile in tiles for name in ee.Image(tile).bandNames().getInfo()}
    assert spec.program is not None
    source = {output.name: output.band for output in spec.program.outputs}
    assert have < set(source.values()), "this tile has fewer bands"
    assert (source["DJF_vv_COH06"], source["SON_vv_COH48"]) == ("winter_vv_COH06", "fall_vv_COH48")
    found = bands(program_image(ee, spec, tiles), grid(lon, lat, pixel=92.7))
    for name, values in found.items():
        assert np.isnan(values).all() == (source[name] not in have), name
    some = next(values for name, values in found.items() if source[name] in have)
    assert ((some[~np.isnan(some)] > 0) & (some[~np.isnan(some)] <= 100)).all()


gssic = "Earth_Big_Data/GLOBAL_SEASONAL_S1/V2019"


def native_grid(lon: float, lat: float, side: int = 24) -> Any:
    """Pixels of the seasonal data set themselves, so that resampling changes nothing."""
    corner = round(lon * 1200) / 1200, round(lat * 1200) / 1200
    return ee_in_process.grid("EPSG:4326", (1 / 1200, 0.0, corner[0], 0.0, -1 / 1200, corner[1]), side, side)


def test_a_season_that_was_not_acquired_is_missing_and_the_others_are_not() -> None:
    lon, lat = -3.5, 38.5  # no autumn here
    tiles = ids(f"{gssic}/COHERENCE", lon, lat)
    have = {name for tile in tiles for name in ee.Image(tile).bandNames().getInfo()}
    assert {name.split("_")[0] for name in have} == {"winter", "spring", "summer"}
    for name in ("coherence", "coherence_decay"):
        spec = find_array(name)
        part = spec.source[0].rpartition("/")[2]
        found = bands(program_image(ee, spec, ids(f"{gssic}/{part}", lon, lat)), native_grid(lon, lat))
        assert spec.program is not None
        for output in spec.program.outputs:
            assert np.isnan(found[output.name]).all() == output.band.startswith("fall"), output.name


def test_pairs_of_6_days_are_missing_where_one_satellite_went_and_12_are_not() -> None:
    lon, lat = 20.5, 5.5
    spec = find_array("coherence")
    tiles = ids(f"{gssic}/COHERENCE", lon, lat)
    found = bands(program_image(ee, spec, tiles), native_grid(lon, lat))
    assert spec.program is not None
    by_days: dict[str, list[bool]] = {}
    for output in spec.program.outputs:
        by_days.setdefault(output.band[-2:], []).append(bool(np.isfinite(found[output.name]).any()))
    assert not any(by_days["06"] + by_days["18"])
    for days in ("12", "24", "36", "48"):
        assert any(by_days[days]), days


@pytest.mark.parametrize(
    ("name", "measure", "physical"),
    [
        ("coherence", "COH12", lambda number: number / 100),
        ("coherence_decay", "rho", lambda number: number / 1000),
        ("coherence_decay", "tau", lambda number: number / 100),
        ("coherence_decay", "rmse", lambda number: number / 1000),
        ("coherence_backscatter", "AMP", lambda number: 20 * np.log10(number) - 83),
    ],
)
def test_what_is_stored_is_the_digital_number_in_physical_units(name: str, measure: str, physical: Any) -> None:
    """Against the raw numbers of the same tile: coherence in hundredths, days of decay, dB = 20 log10(DN) - 83."""
    lon, lat = 14.5, 44.5  # a coast: the sea has no number
    spec = find_array(name)
    assert spec.program is not None
    output = next(item for item in spec.program.outputs if item.band == f"summer_vv_{measure}")
    part = spec.source[0].rpartition("/")[2]
    on = native_grid(lon - 0.06, lat + 0.06, side=144)
    stored = np.rint(bands(program_image(ee, spec, ids(f"{gssic}/{part}", lon, lat)), on)[output.name])
    (raw,) = ids(f"{gssic}/{part}_RAW", lon, lat)
    number = bands(ee.Image(raw).select([output.band]), on)[output.band]
    known = number > 0
    assert 0.05 < known.mean() < 0.95
    np.testing.assert_allclose(stored[known] * spec.scale, physical(number[known]), atol=spec.scale / 2 + 1e-9)
    assert np.isnan(stored[~known]).all(), "0 is no coherence, it is no data"


def test_water_and_no_data_of_the_vegetation_map_are_masked() -> None:
    spec = find_array("modis_vegetation")
    found = bands(program_image(ee, spec, spec.source), grid(-1.6, 46.9, side=60, pixel=231.66))
    trees = found["Percent_Tree_Cover"]
    assert np.isnan(trees).any()
    assert np.nanmax(trees) <= 100


def test_every_further_row_is_declared_soundly() -> None:
    for spec in known_arrays().values():
        assert spec.license in licenses, spec.name
        assert spec.source or spec.recipe in ("geolocation", "month"), spec.name
    assert select_arrays(["m3leo"])[0].modality == "sentinel1_seasons"
    assert len(select_arrays()) == 16, "without a name MMEarth's twelve modalities"
    assert {spec.modality for spec in select_arrays(["mmearth", "biomass"])} >= {"sentinel2", "biomass"}


def test_a_declared_array_is_known_and_may_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3etl.spec.catalog._declared", {})
    text = (
        '[[array]]\nname = "mine"\nasset = "USGS/SRTMGL1_003"\nkind = "image"\n'
        'bands = ["elevation"]\ndtype = "float32"\nnative_gsd_m = 30\n'
    )
    declare_arrays(parse_declarations(text, file="mine.toml"))
    assert find_array("mine").native_gsd_m == 30
    assert select_arrays(["mine"])[0].name == "mine"
    with pytest.raises(InputError, match="declared already"):
        declare_arrays(parse_declarations(text.replace("= 30", "= 90"), file="mine.toml"))
