"""Maps in tiles of UTM zones and bursts of radar: ids that lead back, edges, and how they follow the same ground."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from shapely.geometry import Point, box

from m3etl.emulator.model import CollectionQuery
from m3etl.emulator.planet.orbits import seconds
from m3etl.emulator.planet.source import Planet

from .test_planet_maps import pixels

planet = Planet()
embeddings = "GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"
land_cover = "projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m_TS"
opera = "OPERA/RTC/L2_V1/S1"
places = ((8.52, 47.3), (-58.4, -34.6), (179.99, -16.8), (12.0, 47.9))


def found(name: str, lon: float, lat: float, start: str, days: float):
    region = box(lon - 0.02, lat - 0.02, min(lon + 0.02, 180.0), lat + 0.02)
    start_ms = int(seconds(start) * 1000)
    query = CollectionQuery(region=region, start_ms=start_ms, end_ms=start_ms + int(days * 86_400_000))
    return list(planet.collection(name).find(query))


@pytest.mark.parametrize(("lon", "lat"), places)
@pytest.mark.parametrize("name", [embeddings, land_cover])
def test_a_place_has_a_map_of_every_year_and_ids_lead_back(name: str, lon: float, lat: float) -> None:
    images = found(name, lon, lat, "2018-01-01", 366)
    assert {image.info.properties["system:time_start"] for image in images} == {
        int(seconds(f"{year}-01-01") * 1000) for year in (2018, 2019)
    }
    assert any(image.info.footprint.intersects(Point(lon, lat)) for image in images)
    for image in images:
        assert planet.image(image.info.id).info == image.info
        zone = int((lon + 180) // 6) + 1
        assert image.info.bands[0].projection.crs[-2:] in {
            f"{(number - 1) % 60 + 1:02d}" for number in (zone - 1, zone, zone + 1)
        }
    assert planet.image(f"{name}/none") is None


def test_embeddings_are_unit_vectors_that_tell_the_ground_apart() -> None:
    lon, lat = 8.52, 47.3
    (image,) = [
        one for one in found(embeddings, lon, lat, "2020-01-01", 1) if one.info.footprint.contains(Point(lon, lat))
    ]
    bands = pixels(image, lon, lat, side=200)
    assert list(bands) == [f"A{axis:02d}" for axis in range(64)]
    vectors = np.array([values for values, _ in bands.values()])
    assert vectors.dtype == np.float64
    np.testing.assert_allclose((vectors**2).sum(axis=0), 1.0, atol=0.03)
    steps = np.sqrt(np.abs(vectors)) * 127.5
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9, err_msg="not the steps of the original")
    (cover,) = [
        one for one in found(land_cover, lon, lat, "2020-01-01", 1) if one.info.footprint.contains(Point(lon, lat))
    ]
    codes = pixels(cover, lon, lat, side=200)["b1"][0]
    kinds = [code for code in np.unique(codes) if (codes == code).sum() > 50]
    assert len(kinds) >= 2
    means = [vectors[:, codes == code].mean(axis=1) for code in kinds]
    assert max(float(one @ other) for one, other in pairwise(means)) < 0.95
    (later,) = [
        one for one in found(embeddings, lon, lat, "2021-01-01", 1) if one.info.footprint.contains(Point(lon, lat))
    ]
    changed = pixels(later, lon, lat, side=200, bands=("A00",))["A00"][0]
    assert 0 < np.abs(changed - vectors[0]).max() < 0.2


def test_land_cover_ends_at_its_grid_zone_and_the_open_sea_is_zero() -> None:
    lon, lat = 6.0, 50.0  # where two zones meet
    west, east = sorted(found(land_cover, lon, lat, "2020-01-01", 1), key=lambda image: image.info.id)
    assert [image.info.properties["system:index"][:3] for image in (west, east)] == ["31U", "32U"]
    shares = [pixels(image, lon, lat)["b1"][1].mean() for image in (west, east)]
    assert all(0 < share < 1 for share in shares)
    assert sum(shares) == pytest.approx(1.0, abs=0.1)
    (sea,) = found(land_cover, -30.2, 30.1, "2020-01-01", 1)
    values, valid = pixels(sea, -30.2, 30.1)["b1"]
    assert valid.all()
    assert (values == 0).all()


def test_bursts_lead_back_and_cover_a_pass_without_a_gap() -> None:
    lon, lat = 8.52, 47.3
    images = found(opera, lon, lat, "2020-06-01", 13)
    assert images
    for image in images:
        info = image.info
        assert planet.image(info.id).info == info
        assert info.bands[0].projection.transform[0] == 30.0
        assert [band.id for band in info.bands] == ["VV", "VH", "mask"]
    passes: dict[int, list] = {}
    for image in images:
        passes.setdefault(image.info.properties["TRACK_NUMBER"], []).append(image)
    covered = [
        max(pixels(image, lon, lat, side=8, bands=("VV",))["VV"][1].mean() for image in members)
        for members in passes.values()
    ]
    assert max(covered) == 1.0
    assert found(opera, lon, lat, "2016-01-01", 90) == [], "the archive begins in April 2016"
    assert {band.id for one in found(opera, -45.2, 64.18, "2020-06-01", 13) for band in one.info.bands} == {
        "HH",
        "HV",
        "mask",
    }


def test_gamma_nought_is_linear_and_slopes_are_masked() -> None:
    lon, lat = 76.2, 33.1  # the Himalaya
    seen = set()
    for image in found(opera, lon, lat, "2020-06-01", 13):
        bands = pixels(image, lon, lat, side=150)
        power, valid = bands["VV"]
        mask, known = bands["mask"]
        assert known.all()
        np.testing.assert_array_equal(mask == 255, ~valid)
        assert (power[valid] > 0).all()
        seen |= set(np.unique(mask[valid]).tolist())
    assert seen <= {0, 1, 2, 3}
    assert seen >= {0, 2}, "the steepest slopes lie over"
