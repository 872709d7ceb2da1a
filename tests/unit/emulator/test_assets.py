"""Assets: the archive over the planet, ids that come back, folders."""

import json

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from shapely.geometry import MultiPolygon, Point, box

from m3etl.emulator.assets import open_assets
from m3etl.emulator.model import CollectionQuery
from m3etl.errors import InputError

S2 = "COPERNICUS/S2_SR_HARMONIZED"
MAY = {"start_ms": 1_588_291_200_000, "end_ms": 1_590_969_600_000}
COLLECTIONS = (
    S2, "COPERNICUS/S2_HARMONIZED", "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED", "COPERNICUS/S1_GRD",
    "COPERNICUS/S1_GRD_FLOAT", "GOOGLE/DYNAMICWORLD/V1", "ESA/WorldCover/v100", "ESA/WorldCover/v200",
    "COPERNICUS/DEM/GLO30_2024_1", "ECMWF/ERA5_LAND/MONTHLY_AGGR",
)  # fmt: skip


@pytest.fixture(scope="module")
def planet():
    return open_assets(None)


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", width=100, height=100, count=1, dtype="uint16", crs="EPSG:32632",
        transform=Affine(10, 0, 650_000, 0, -10, 5_770_000),
    ) as target:  # fmt: skip
        target.write(np.full((100, 100), 7, np.uint16), 1)
    records = [
        {
            "type": "IMAGE",
            "id": f"{S2}/real",
            "start": "2020-05-10T10:00:00Z",
            "bands": [{"id": "B4", "href": "a.tif"}],
        },
        {
            "type": "IMAGE",
            "id": "own/set/one",
            "start": "2020-05-10T10:00:00Z",
            "bands": [{"id": "b", "href": "a.tif"}],
        },
    ]
    (folder / "archive.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    return open_assets(folder)


def indices(collection, **query):
    return [image.info.properties["system:index"] for image in collection.find(CollectionQuery(**query))]


OUTSIDE = Point(14.0, 52.05)


def test_where_archive_images_meet_the_region_the_planet_adds_none(layered):
    collection = layered.collection(S2)
    inside = layered.image(f"{S2}/real").info.footprint.centroid
    assert indices(collection, region=inside, **MAY) == ["real"]
    # even where the archive has nothing at that time
    assert indices(collection, region=inside, start_ms=MAY["end_ms"], end_ms=MAY["end_ms"] + 30 * 86_400_000) == []


def test_elsewhere_the_planet_answers(layered, planet):
    expected = indices(planet.collection(S2), region=OUTSIDE, **MAY)
    assert len(expected) > 3
    assert indices(layered.collection(S2), region=OUTSIDE, **MAY) == expected


def test_without_a_region_both_layers_answer_without_overlap(layered):
    real = layered.image(f"{S2}/real").info.footprint
    start = layered.image(f"{S2}/real").info.properties["system:time_start"]
    found = list(layered.collection(S2).find(CollectionQuery(start_ms=start - 3_600_000, end_ms=start + 3_600_000)))
    times = [image.info.properties["system:time_start"] for image in found]
    assert times == sorted(times)
    assert [image.info.id for image in found if image.info.footprint.intersects(real)] == [f"{S2}/real"]
    assert len(found) > 5


def test_an_index_is_looked_up_in_the_archive_first_then_on_the_planet(layered, planet):
    assert indices(layered.collection(S2), index="real") == ["real"]
    other = indices(planet.collection(S2), region=OUTSIDE, **MAY)[0]
    assert indices(layered.collection(S2), index=other) == [other]
    assert layered.image(f"{S2}/{other}").info.id == f"{S2}/{other}"


def test_a_collection_of_the_archive_alone(layered, planet):
    assert indices(layered.collection("own/set")) == ["one"]
    assert planet.collection("own/set") is None


def test_folders_list_both_layers(layered, planet):
    assert ("own", "FOLDER") in layered.list_ids("")
    assert layered.list_ids("own") == [("own/set", "IMAGE_COLLECTION")]
    assert (S2, "IMAGE_COLLECTION") in planet.list_ids("COPERNICUS")
    assert planet.list_ids("RESOLVE/ECOREGIONS") == [("RESOLVE/ECOREGIONS/2017", "TABLE")]
    assert ("users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1", "IMAGE") in planet.list_ids("users/nlang")


def test_unknown_assets_are_none(planet):
    assert planet.image("COPERNICUS/S2_SR_HARMONIZED/nonsense") is None
    assert planet.image("no/such/asset") is None
    assert planet.collection("no/such") is None
    assert planet.table("no/such") is None


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_image_is_rebuilt_from_its_id(planet, name):
    collection = planet.collection(name)
    query = CollectionQuery(region=box(14.0, 52.0, 14.3, 52.2), start_ms=None, end_ms=1_600_000_000_000)
    found = []
    for image in collection.find(query):
        found.append(image)
        if len(found) == 25:
            break
    if name == "ESA/WorldCover/v200":
        assert found == []  # it is of 2021
        found = list(collection.find(CollectionQuery()))
    assert found
    for image in found:
        again = planet.image(image.info.id)
        assert again.info == image.info
        assert image.info.properties["synthetic"] is True
        assert image.info.id == f"{name}/{image.info.properties['system:index']}"
        found_by_index = list(collection.find(CollectionQuery(index=image.info.properties["system:index"])))
        assert [item.info.id for item in found_by_index] == [image.info.id]


@pytest.mark.parametrize("name", COLLECTIONS)
def test_order_bounds_and_region_of_find(planet, name):
    collection = planet.collection(name)
    region = box(-99.2, 38.0, -98.9, 38.2)
    start, end = (1_577_836_800_000, 1_582_000_000_000) if "20" not in name else (None, None)
    keys = []
    for image in collection.find(CollectionQuery(region=region, start_ms=start, end_ms=end)):
        properties = image.info.properties
        keys.append((properties["system:time_start"], properties["system:index"]))
        assert image.info.footprint.intersects(region)
    assert keys
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    if start is not None:
        assert all(start <= time < end for time, _ in keys)
        middle = keys[len(keys) // 2][0]
        halves = [
            indices(collection, region=region, start_ms=start, end_ms=middle),
            indices(collection, region=region, start_ms=middle, end_ms=end),
        ]
        assert halves[0] + halves[1] == [index for _, index in keys]


@pytest.mark.parametrize("name", ["COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S1_GRD", "COPERNICUS/DEM/GLO30_2024_1"])
def test_large_and_small_regions_agree(planet, name):
    """The two ways of searching (few tiles, many tiles) find the same images."""
    small, large = box(10.0, 50.0, 10.4, 50.3), box(-8.0, 37.0, 24.0, 56.0)
    time = {} if "DEM" in name else {"start_ms": 1_588_291_200_000, "end_ms": 1_588_291_200_000 + 6 * 86_400_000}
    few = indices(planet.collection(name), region=small, **time)
    many = [
        image.info.properties["system:index"]
        for image in planet.collection(name).find(CollectionQuery(region=large, **time))
        if image.info.footprint.intersects(small)
    ]
    assert few
    assert few == many


def test_a_region_across_the_antimeridian(planet):
    """Land on both sides of 180 degrees, asked for as two parts."""
    region = MultiPolygon([box(179.6, 67.5, 180.0, 68.2), box(-180.0, 67.5, -179.6, 68.2)])
    query = CollectionQuery(region=region, start_ms=1_593_561_600_000, end_ms=1_594_771_200_000)
    zones = {
        image.info.bands[0].projection.crs for image in planet.collection("COPERNICUS/S2_SR_HARMONIZED").find(query)
    }
    assert {"EPSG:32601", "EPSG:32660"} <= zones
    for image in planet.collection("COPERNICUS/S1_GRD").find(query):
        west, _, east, _ = image.info.footprint.bounds
        assert west >= -180.0
        assert east <= 180.0


def test_first_of_everything_is_cheap(planet):
    """Unbounded queries are answered lazily."""
    for name in COLLECTIONS:
        first = next(iter(planet.collection(name).find(CollectionQuery())))
        assert first.info.properties["system:index"]


def test_a_bad_archive_is_refused(tmp_path):
    (tmp_path / "archive.jsonl").write_text("{\n")
    with pytest.raises(InputError, match="line 1: not JSON"):
        open_assets(tmp_path)
