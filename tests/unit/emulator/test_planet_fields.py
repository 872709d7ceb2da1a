"""Hidden fields: pixels do not depend on how they are asked for, and the ground makes sense."""

import subprocess
import sys

import numpy as np
import pytest

from m3etl.emulator.model import Projection
from m3etl.emulator.planet import frames, landcover
from m3etl.emulator.planet.climate import Coarse, coarse_maps, read_maps
from m3etl.emulator.planet.frames import FrameCache, Node, node_fields
from m3etl.emulator.planet.landcover import Cover, Now, State
from m3etl.emulator.planet.terrain import elevation, slopes

ALPS = Projection(crs="EPSG:32632", transform=(10.0, 0.0, 600_000.0, 0.0, -10.0, 5_200_020.0))
FIJI = Projection(crs="EPSG:32760", transform=(10.0, 0.0, 800_000.0, 0.0, -10.0, 8_150_000.0))


def block(column, row, width, height):
    x, y = np.meshgrid(np.arange(column, column + width), np.arange(row, row + height))
    return x.ravel(), y.ravel()


def ground_of(projection, column, row):
    request = FrameCache().request(projection, column, row)
    land = landcover.ground(request.frame)
    return request.give(land.cover), np.stack([request.give(layer) for layer in land.state])


@pytest.mark.parametrize("projection", [ALPS, FIJI])
def test_a_pixel_does_not_depend_on_its_window(projection):
    column, row = block(2000, 1500, 40, 30)
    cover, state = ground_of(projection, column, row)
    rng = np.random.default_rng(5)
    chosen = rng.choice(column.size, 60, replace=False)
    for picked in (chosen, np.arange(0, column.size, 7), chosen[:3]):
        scattered = np.append(picked, 0)
        again, again_state = ground_of(
            projection, np.append(column[scattered], 9_000), np.append(row[scattered], 9_100)
        )
        np.testing.assert_array_equal(again[:-1], cover[scattered])
        np.testing.assert_array_equal(again_state[:, :-1], state[:, scattered])


def test_windows_across_the_antimeridian_agree():
    """In zone 60 the eastern edge is 180 degrees; a window across it equals one that lies on one side."""
    projection = Projection(crs="EPSG:32660", transform=(10.0, 0.0, 600_000.0, 0.0, -10.0, 7_500_000.0))
    column, row = block(2740, 100, 80, 20)
    request = FrameCache().request(projection, column, row)
    lon = request.give(request.frame.column(Node.LON))
    assert (lon % 360.0).min() < 180.0 < (lon % 360.0).max()
    cover, state = ground_of(projection, column, row)
    right = column >= 2800
    again, again_state = ground_of(projection, column[right], row[right])
    np.testing.assert_array_equal(again, cover[right])
    np.testing.assert_array_equal(again_state, state[:, right])


def test_positions_between_nodes_are_exact_to_centimetres():
    column, row = block(777, 1313, 50, 50)
    request = FrameCache().request(ALPS, column, row)
    x = 600_000.0 + 10.0 * (column + 0.5)
    y = 5_200_020.0 - 10.0 * (row + 0.5)
    lon, lat = frames.to_lonlat("EPSG:32632", x, y)
    assert np.abs(request.give(request.frame.column(Node.LON)) - lon).max() * 111_195 < 0.01
    assert np.abs(request.give(request.frame.column(Node.LAT)) - lat).max() * 111_195 < 0.01


def test_a_window_that_is_kept_answers_for_the_windows_inside_it():
    cache = FrameCache()
    large = cache.request(ALPS, *block(100, 100, 50, 50))
    small = cache.request(ALPS, *block(110, 120, 20, 10))
    assert small.frame is large.frame
    other = cache.request(ALPS, *block(5000, 100, 50, 50))
    assert other.frame is not large.frame


def test_the_cache_is_bounded():
    cache = FrameCache(pixels=10_000)
    for number in range(12):
        cache.request(ALPS, *block(number * 200, 0, 60, 60))
    assert sum(frame.size for frame in cache._frames.values()) <= 10_000


def test_fields_of_moments_are_forgotten():
    frame = FrameCache().request(ALPS, *block(0, 0, 20, 20)).frame
    for day in range(18_000, 18_020):
        landcover.today(frame, day)
    assert len(frame.moments) < 10


def test_slopes_are_the_slopes_of_the_elevation():
    column, row = block(2000, 1500, 100, 100)
    frame = FrameCache().request(ALPS, column, row).frame
    width = 104  # the margin of a window is two pixels
    height, east, north = (layer.reshape(width, width) for layer in slopes(frame))
    assert np.corrcoef(np.gradient(height, 10.0, axis=1).ravel(), east.ravel())[0, 1] > 0.97
    assert np.corrcoef(-np.gradient(height, 10.0, axis=0).ravel(), north.ravel())[0, 1] > 0.97
    np.testing.assert_array_equal(elevation(frame), height.ravel())


def test_the_ground_is_the_same_in_another_process():
    code = (
        "import hashlib, numpy as np\n"
        "from m3etl.emulator.model import Projection\n"
        "from m3etl.emulator.planet import landcover\n"
        "from m3etl.emulator.planet.frames import FrameCache\n"
        "p = Projection(crs='EPSG:32632', transform=(10.0, 0.0, 600000.0, 0.0, -10.0, 5200020.0))\n"
        "x, y = np.meshgrid(np.arange(40), np.arange(30))\n"
        "f = FrameCache().request(p, x.ravel(), y.ravel()).frame\n"
        "g = landcover.ground(f)\n"
        "print(hashlib.sha256(g.cover.tobytes() + g.state.tobytes()"
        " + landcover.today(f, 18262).tobytes()).hexdigest())"
    )
    run = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert run[0].stdout == run[1].stdout
    assert len(run[0].stdout.strip()) == 64


@pytest.mark.parametrize(
    ("place", "lon", "lat", "land"),
    [
        ("kansas", -98, 38, True), ("germany", 10, 51, True), ("iran", 54, 33, True), ("delhi", 77, 28, True),
        ("sichuan", 103, 31, True), ("bolivia", -66, -17, True), ("sydney hinterland", 149, -32, True),
        ("antarctica", 60, -80, True), ("chukotka across 180", -177, 66.5, True), ("pacific", -150, 10, False),
        ("atlantic", -35, 30, False), ("bay of bengal", 88, 14, False), ("hudson bay", -85, 60, False),
        ("caspian", 51, 41.5, False),
    ],
)  # fmt: skip
def test_land_and_sea_are_where_they_are_on_earth(place, lon, lat, land):
    out = np.empty((1, len(Coarse)))
    read_maps(coarse_maps(), np.array([float(lon)]), np.array([float(lat)]), out)
    assert (out[0, Coarse.SHORE] > 0) == land, place


def test_climate_follows_the_latitude_and_the_hemisphere():
    fields = node_fields(np.array([-60.0, 15.0, 20.0, 100.0, 146.0]), np.array([-3.0, 24.0, 52.0, 66.0, -33.0]))
    amazon, sahara, poland, siberia, australia = fields
    assert amazon[Node.RAIN] > 1500 > 900 > poland[Node.RAIN] > 300 > sahara[Node.RAIN]
    assert amazon[Node.WARMTH] > 22 > poland[Node.WARMTH] > 2 > siberia[Node.WARMTH]
    assert abs(amazon[Node.SWING]) < 4 < poland[Node.SWING] < siberia[Node.SWING]
    assert australia[Node.SWING] < -4


def test_maps_are_continuous_across_the_antimeridian_and_at_the_pole():
    lat = np.linspace(-89, 89, 50)
    east = node_fields(np.full(50, 179.9999), lat)
    west = node_fields(np.full(50, -179.9999), lat)
    smooth = [Node.X, Node.Y, Node.Z, Node.SHORE, Node.WARMTH, Node.SWING, Node.TERRAIN, Node.PEOPLE]
    np.testing.assert_allclose(east[:, smooth], west[:, smooth], atol=0.03)
    around = node_fields(np.linspace(-180, 179, 20), np.full(20, 90.0))
    assert np.ptp(around[:, Node.TERRAIN]) < 1e-3


def test_seasons_swap_with_the_hemisphere():
    def leaves(zone_crs, north, day):
        projection = Projection(crs=zone_crs, transform=(900.0, 0.0, 400_000.0, 0.0, -900.0, north))
        frame = FrameCache().request(projection, *block(0, 0, 60, 60)).frame
        now, land = landcover.today(frame, day), landcover.ground(frame)
        plants = np.isin(land.cover, (Cover.TREES, Cover.GRASS, Cover.SHRUBS)) & (land.state[State.GREEN] > 0.3)
        return now[Now.LEAF][plants].mean(), now[Now.SNOW].mean()

    winter, snow = leaves("EPSG:32634", 6_100_000.0, 18_276)  # the Baltic in January
    summer, no_snow = leaves("EPSG:32634", 6_100_000.0, 18_450)
    assert summer > winter
    assert snow > 0.08 > 0.01 > no_snow
    southern_january, _ = leaves("EPSG:32719", 5_200_000.0, 18_276)  # Patagonia
    southern_july, southern_snow = leaves("EPSG:32719", 5_200_000.0, 18_450)
    assert southern_january > southern_july
    assert southern_snow > 0.0
