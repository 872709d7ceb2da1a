"""Sensors: what one shows agrees with what the others show, as on Earth."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from shapely.geometry import Point

from m3etl.emulator.model import CollectionQuery, ServiceError
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.dynamicworld import CLASSES
from m3etl.emulator.planet.source import Planet
from tests.unit.emulator.planet_places import JANUARY, JULY, clearest, found, window

L1C, L2A = "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S2_SR_HARMONIZED"
S1 = "COPERNICUS/S1_GRD"
DEM, CANOPY = "projects/sat-io/open-datasets/ASTER/GDEM", "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"
WORLDCOVER = "ESA/WorldCover/v100/2020"
POLAND, SAHARA, AMAZON, HIMALAYA = (20.2, 52.1), (10.1, 24.3), (-62.3, -5.2), (84.1, 28.7)


@pytest.fixture(scope="module")
def planet():
    return Planet()


def classes_under(image, place, planet, size=64):
    """WorldCover at the centres of the 10 m pixels of an image's window."""
    band = next(band for band in image.info.bands if band.projection.transform[0] == 10.0)
    zone = utm.zone_of(band.projection.crs)
    a, _, c, _, e, f = band.projection.transform
    x, y = (float(v[0]) for v in utm.to_utm(*zone, np.array([place[0]]), np.array([place[1]])))
    column, row = np.meshgrid(
        int((x - c) / a) - size // 2 + np.arange(size), int((y - f) / e) - size // 2 + np.arange(size)
    )
    lon, lat = utm.from_utm(*zone, c + a * (column.ravel() + 0.5), f + e * (row.ravel() + 0.5))
    cover = planet.image(WORLDCOVER)
    _, _, west, _, step, north = cover.info.bands[0].projection.transform
    at = np.floor((lon - west) / -step).astype(int), np.floor((lat - north) / step).astype(int)
    values, valid = cover.sample(["Map"], *at)["Map"]
    return np.where(valid, values, 0).reshape(size, size), column, row


def gather(planet, places, name, bands, pick):
    """Classes and band values of many places in one table."""
    cover, values = [], {band: [] for band in bands}
    for place in places:
        image = pick(place)
        if image is None:
            continue
        kinds, column, row = classes_under(image, place, planet)
        samples = image.sample(bands, column, row)
        valid = np.logical_and.reduce([samples[band][1] for band in bands])
        cover.append(kinds[valid])
        for band in bands:
            values[band].append(samples[band][0][valid].astype(np.float64))
    return np.concatenate(cover), {band: np.concatenate(values[band]) for band in bands}


PLACES = [
    (20.2, 52.1), (-97.1, 38.2), (10.9, 46.6), (-1.2, 52.6), (-60.3, -4.2), (26.3, -13.2), (10.1, 24.3), (4.9, 52.4),
    (12.5, 41.9), (-74.2, 40.6), (106.7, 26.6), (77.1, 28.6), (25.5, 62.3), (2.35, 48.9), (-0.1, 51.4), (13.4, 52.5),
]  # fmt: skip


@pytest.fixture(scope="module")
def optical(planet):
    return gather(planet, PLACES, L2A, ["B2", "B3", "B4", "B8"], lambda place: clearest(planet, L2A, *place))


@pytest.fixture(scope="module")
def radar(planet):
    def pick(place):
        images = [image for image in found(planet, S1, *place, JULY, 24) if len(image.info.bands) == 3]
        return images[0] if images else None

    return gather(planet, PLACES, S1, ["VV", "VH"], pick)


def test_vegetation_index_follows_the_land_cover(optical):
    cover, band = optical
    index = (band["B8"] - band["B4"]) / (band["B8"] + band["B4"])
    assert set(np.unique(cover)) >= {10, 40, 60, 80}
    trees, water, bare = (np.median(index[cover == code]) for code in (10, 80, 60))
    assert trees > 0.65
    assert bare < 0.25
    assert water < 0.05


def test_water_is_dark_and_sand_is_bright(optical):
    cover, band = optical
    assert np.median(band["B8"][cover == 80]) < 900
    assert np.median(band["B8"][cover == 60]) > 2_500
    assert np.median(band["B4"][cover == 60]) > 1_500 > 700 > np.median(band["B4"][cover == 10])


def test_radar_tells_water_trees_and_towns_apart(radar):
    cover, band = radar
    median = {
        code: (np.median(band["VV"][cover == code]), np.median(band["VH"][cover == code])) for code in (10, 60, 80)
    }
    assert median[80][0] < -17 < median[10][0]
    assert median[10][1] > median[60][1] + 4
    assert -18 < median[10][1] < -10
    built = band["VV"][cover == 50]
    assert built.size > 100
    assert np.percentile(built, 90) > np.percentile(band["VV"][cover == 40], 90) + 2


def test_speckle_has_about_four_looks(planet):
    image = found(planet, "COPERNICUS/S1_GRD_FLOAT", *AMAZON, JULY, 30)[0]
    power = window(image, "VV", *AMAZON, 128)
    blocks = power.reshape(16, 8, 16, 8).swapaxes(1, 2).reshape(256, 64)
    looks = np.median(blocks.mean(axis=1) ** 2 / blocks.var(axis=1))
    assert 3.0 < looks < 5.0
    assert np.nanmin(power) > 0


def test_speckle_is_the_same_every_time_and_differs_between_images(planet):
    first, second = found(planet, S1, *POLAND, JULY, 30)[:2]
    again = planet.image(first.info.id)
    np.testing.assert_array_equal(window(first, "VV", *POLAND), window(again, "VV", *POLAND))
    residual = window(first, "VV", *POLAND).ravel()
    assert not np.array_equal(residual, window(second, "VV", *POLAND).ravel())


def test_slopes_look_different_from_the_two_passes(planet):
    """Ground rising to the east faces a radar that looks east (ascending) less than one that looks west."""
    difference, east = [], []
    dem = planet.image(DEM)
    for place in ((84.1, 28.7), (10.9, 46.6), (76.2, 33.1), (-106.2, 39.4), (42.9, 43.1)):
        passes = {}
        for image in found(planet, "COPERNICUS/S1_GRD_FLOAT", *place, JULY, 40):
            passes.setdefault(image.info.properties["orbitProperties_pass"], image)
        if len(passes) < 2:
            continue
        smooth = [
            10 * np.log10(window(passes[name], "VV", *place, 128).reshape(8, 16, 8, 16).mean(axis=(1, 3)))
            for name in ("ASCENDING", "DESCENDING")
        ]
        height = window(dem, "b1", *place, 64)
        slope = np.gradient(height.reshape(8, 8, 8, 8).mean(axis=(1, 3)), axis=1)
        difference.append((smooth[0] - smooth[1]).ravel())
        east.append(slope.ravel())
    assert len(difference) >= 2
    joined = np.concatenate(difference), np.concatenate(east)
    valid = np.isfinite(joined[0])
    assert np.corrcoef(joined[0][valid], joined[1][valid])[0, 1] > 0.3
    assert np.std(joined[0][valid]) > 1.0


def test_canopy_stands_where_the_map_has_trees(planet):
    cover, heights = [], []
    canopy, mapped = planet.image(CANOPY), planet.image(WORLDCOVER)
    for place in PLACES:
        cover.append(window(mapped, "Map", *place).ravel())
        heights.append(window(canopy, "b1", *place).ravel())
    kinds, height = np.concatenate(cover), np.concatenate(heights)
    assert np.nanmedian(height[kinds == 10]) > 9
    assert np.nanmax(height[(kinds == 40) | (kinds == 60)]) <= 3
    assert np.isnan(height[kinds == 80]).all()


def test_canopy_deviation_grows_with_the_height(planet):
    deviation = planet.image("users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1")
    height = np.concatenate([window(planet.image(CANOPY), "b1", *place).ravel() for place in PLACES])
    spread = np.concatenate([window(deviation, "b1", *place).ravel() for place in PLACES])
    both = np.isfinite(height) & np.isfinite(spread)
    assert np.corrcoef(height[both], spread[both])[0, 1] > 0.8
    assert spread[both].min() >= 1


def test_dynamic_world_is_a_distribution_that_agrees_with_the_map(planet):
    agree = []
    code = {"water": 80, "trees": 10, "crops": 40, "built": 50, "bare": 60}
    for place in PLACES[:6]:
        images = found(planet, "GOOGLE/DYNAMICWORLD/V1", *place, JULY, 60)
        if not images:
            continue
        kinds, column, row = classes_under(images[0], place, planet)
        samples = images[0].sample([*CLASSES, "label"], column, row)
        valid = samples["label"][1]
        shares = np.stack([samples[name][0] for name in CLASSES])
        np.testing.assert_allclose(shares.sum(axis=0)[valid], 1.0, atol=1e-5)
        assert shares.dtype == np.float32
        label = samples["label"][0]
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label[valid], shares.argmax(axis=0)[valid])
        mapped = np.array([code.get(name, 0) for name in CLASSES])[label]
        known = valid & np.isin(kinds, list(code.values()))
        agree.append((mapped == kinds)[known])
    assert np.concatenate(agree).mean() > 0.7


def test_both_years_of_worldcover_differ_a_little(planet):
    first = np.concatenate([window(planet.image(WORLDCOVER), "Map", *place).ravel() for place in PLACES])
    second = np.concatenate(
        [window(planet.image("ESA/WorldCover/v200/2021"), "Map", *place).ravel() for place in PLACES]
    )
    assert 0.0 < np.mean(first != second) < 0.12
    assert set(np.unique(first)) <= {10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100}


def test_clouds_are_bright_and_every_quality_layer_sees_them(planet):
    cloudy = max(
        found(planet, L2A, *POLAND, JULY, 60), key=lambda image: image.info.properties["CLOUDY_PIXEL_PERCENTAGE"]
    )
    index = cloudy.info.properties["system:index"]
    score = planet.image(f"GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED/{index}")
    step = {"B4": 48, "SCL": 24, "MSK_CLDPRB": 24, "QA60": 8}
    clear = window(score, "cs", *POLAND, 64, 48)
    red = window(cloudy, "B4", *POLAND, 64, 48)
    opaque = clear < 0.2
    assert opaque.any()
    assert np.median(red[opaque]) > 4_500
    fine = clear > 0.9
    if fine.any():
        assert np.median(red[fine]) < 2_500
    classes = window(cloudy, "SCL", *POLAND, 64, step["SCL"])
    assert np.mean(np.isin(classes, (8, 9)) == opaque) > 0.85
    quality = window(cloudy, "QA60", *POLAND, 64, step["QA60"])
    assert np.mean((quality == 1024) == opaque) > 0.85
    assert set(np.unique(quality)) <= {0, 1024, 2048}


def test_cloudiness_follows_the_climate_and_the_metadata(planet):
    def clouds(place):
        images = found(planet, L1C, *place, JANUARY, 360)
        return np.mean([image.info.properties["CLOUDY_PIXEL_PERCENTAGE"] for image in images])

    assert clouds(AMAZON) > clouds(POLAND) > clouds(SAHARA)
    assert clouds(SAHARA) < 15
    assert 20 < clouds(POLAND) < 65


def test_the_air_is_blue_and_cirrus_has_its_band(planet):
    index = clearest(planet, L2A, *POLAND).info.properties["system:index"]
    top, surface = planet.image(f"{L1C}/{index}"), planet.image(f"{L2A}/{index}")
    blue = [np.nanmedian(window(image, "B2", *POLAND)) for image in (top, surface)]
    infrared = [np.nanmedian(window(image, "B8", *POLAND)) for image in (top, surface)]
    assert blue[0] > blue[1] + 300
    assert abs(infrared[0] - infrared[1]) < 0.15 * infrared[1]
    assert np.nanmedian(window(top, "B10", *POLAND, 16)) < 400


def test_snow_lies_in_winter_on_both_hemispheres(planet):
    def snowy(place, start_ms):
        return np.mean([
            np.nanmean(window(image, "MSK_SNWPRB", *place, 24)) > 40
            for image in found(planet, L2A, *place, start_ms, 90)
        ])  # fmt: skip

    siberia, andes = (88.0, 52.5), (-70.3, -39.5)
    assert snowy(siberia, JANUARY) > snowy(siberia, JULY)
    assert snowy(andes, JULY) > snowy(andes, JANUARY)


def test_true_colour_shows_the_visible_bands(planet):
    image = clearest(planet, L2A, *POLAND)
    red, shown = window(image, "B4", *POLAND), window(image, "TCI_R", *POLAND)
    assert np.corrcoef(red.ravel(), shown.ravel())[0, 1] > 0.99
    assert shown.max() <= 255


def test_both_elevation_models_show_one_terrain(planet):
    dem = planet.collection("COPERNICUS/DEM/GLO30_2024_1")
    tile = next(iter(dem.find(CollectionQuery(region=Point(*HIMALAYA)))))
    copernicus = window(tile, "DEM", *HIMALAYA, 40)
    aster = window(planet.image(DEM), "b1", *HIMALAYA, 40)
    assert np.abs(copernicus - aster).max() < 40
    assert np.ptp(aster) > 100
    assert aster.mean() > 3_000


def test_the_sea_has_no_elevation_and_no_canopy(planet):
    middle = (-35.0, 30.0)
    assert np.isnan(window(planet.image(DEM), "b1", *middle)).all()
    assert np.isnan(window(planet.image(CANOPY), "b1", *middle)).all()
    assert not found(planet, L1C, *middle)
    assert not found(planet, S1, *middle)


def test_climate_by_month(planet):
    def month(index, band, place):
        image = planet.image(f"ECMWF/ERA5_LAND/MONTHLY_AGGR/{index}")
        return float(window(image, band, *place, 1)[0, 0])

    for place, warm, cold in ((POLAND, "202007", "202001"), ((-64.0, -34.5), "202001", "202007")):
        assert month(warm, "temperature_2m", place) > month(cold, "temperature_2m", place) + 8
    for index in ("202001", "202007"):
        low, mean, high = (month(index, f"temperature_2m{end}", POLAND) for end in ("_min", "", "_max"))
        assert 220 < low < mean < high < 330
    year = sum(month(f"2020{m:02d}", "total_precipitation_sum", AMAZON) for m in range(1, 13))
    desert = sum(month(f"2020{m:02d}", "total_precipitation_sum", SAHARA) for m in range(1, 13))
    assert 1.2 < year < 5.0
    assert desert < 0.1
    assert np.isnan(month("202001", "temperature_2m", (-35.0, 30.0)))
    assert month("202001", "temperature_2m", POLAND) != month("202101", "temperature_2m", POLAND)
    assert planet.image("ECMWF/ERA5_LAND/MONTHLY_AGGR/202013") is None
    assert planet.image("ECMWF/ERA5_LAND/MONTHLY_AGGR/202601") is None


def test_the_aster_temperature_falls_with_height(planet):
    image = planet.image("ECMWF/ERA5_LAND/MONTHLY_AGGR/202007")
    high, low = window(image, "temperature_2m", 88.0, 32.5, 5), window(image, "temperature_2m", 80.0, 26.0, 5)
    assert np.nanmean(low) > np.nanmean(high) + 10


def test_bands_that_do_not_exist_are_refused(planet):
    image = found(planet, L2A, *POLAND)[0]
    with pytest.raises(ServiceError, match="B10"):
        image.sample(["B10"], np.array([0]), np.array([0]))
    empty = image.sample(["B4"], np.zeros((0,), np.int64), np.zeros((0,), np.int64))["B4"]
    assert empty[0].shape == (0,)


def test_pixels_outside_an_image_are_not_valid(planet):
    image = found(planet, L2A, *POLAND)[0]
    values, valid = image.sample(["B4"], np.array([[-1, 0, 10_980]]), np.array([[0, -5, 10]]))["B4"]
    assert values.shape == (1, 3)
    assert not valid.any()


def test_concurrent_requests_get_the_same_pixels(planet):
    image = clearest(planet, L2A, *POLAND)
    places = [(POLAND[0] + 0.02 * (number % 6), POLAND[1]) for number in range(24)]
    alone = [window(image, "B8", *place) for place in places[:6]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda place: window(image, "B8", *place), places))
    for number, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, alone[number % 6])
