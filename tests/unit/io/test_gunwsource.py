"""Which products a chip gets: by windows of days, one relative orbit, frames and versions of a pair."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import shapely

from m3etl.compute.grids import chip_grid
from m3etl.errors import InputError, NothingSelectedError, RemoteError
from m3etl.io.gunw import parse_name
from m3etl.io.gunwsearch import AsfArchive
from m3etl.io.gunwsource import (
    FoundProduct,
    ListedProducts,
    SearchedProducts,
    chip_polygon,
    choose_products,
    find_products,
)
from tests.fakes.gunw import Made, product_name, write_product

chip = shapely.box(12.05, 47.85, 12.1, 47.9)
whole = shapely.box(12.0, 47.5, 12.5, 48.0)
anchor = datetime(2020, 1, 12, tzinfo=UTC)


def found(days: int, footprint: shapely.Geometry = whole, **name: object) -> FoundProduct:
    text = product_name(days, **name)  # type: ignore[arg-type]
    return FoundProduct(location=text, pair=parse_name(text), footprint=footprint)


def chosen_days(*products: FoundProduct) -> dict[str, int]:
    return {item.window.name: item.pair.days for item in choose_products(products, chip, anchor)}


def test_each_window_gets_the_pair_nearest_to_its_middle() -> None:
    days = (6, 24, 48, 66, 72, 108, 132, 136, 216, 300)
    assert chosen_days(*map(found, days)) == {"days_0_60": 24, "days_72_132": 108, "days_140_216": 216}
    assert chosen_days(found(66), found(300)) == {}


def test_of_equally_far_pairs_the_one_nearest_in_time_to_the_anchor_counts() -> None:
    far, near = found(24, reference="2018-01-12"), found(36, reference="2020-01-24")
    (item,) = choose_products([far, near], chip, anchor)
    assert item.pair.days == 36
    (item,) = choose_products([far, near], chip, datetime(2018, 1, 1, tzinfo=UTC))
    assert item.pair.days == 24


def test_all_windows_are_of_the_orbit_with_most_windows_then_most_pairs() -> None:
    ascending = [found(days, way="A", track=15) for days in (30, 102, 12)]
    descending = [found(days) for days in (30, 102, 178)]
    assert {item.pair.direction for item in choose_products([*ascending, *descending], chip, anchor)} == {"D"}
    more = [*ascending, found(176, way="A", track=15)]
    assert {item.pair.track for item in choose_products([*more, *descending], chip, anchor)} == {15}
    corner = shapely.box(12.0, 47.5, 12.06, 48.0)
    partly = [found(days, corner, way="A", track=15) for days in (30, 36, 48, 102, 108, 178, 200)]
    assert {item.pair.direction for item in choose_products([*partly, *descending], chip, anchor)} == {"D"}


def test_a_pair_processed_twice_is_used_once_and_the_newer_one() -> None:
    twice = [found(30, version="2_0_4"), found(30, version="2_0_6", tag="77aa"), found(30, version="2_0_5", tag="aa77")]
    (item,) = choose_products(twice, chip, anchor)
    assert [frame.pair.version for frame in item.frames] == [(2, 0, 6)]


def test_frames_of_a_pair_are_used_together_the_larger_first() -> None:
    upper, lower = shapely.box(12.0, 47.86, 12.5, 48.2), shapely.box(12.0, 47.0, 12.5, 47.87)
    (item,) = choose_products([found(30, lower), found(30, upper, tag="77aa")], chip, anchor)
    assert [frame.footprint for frame in item.frames] == [upper, lower]
    (item,) = choose_products([found(30, lower), found(30, upper, tag="77aa"), found(30, tag="aa77")], chip, anchor)
    assert [frame.footprint for frame in item.frames] == [whole], "one frame that holds all of the chip is enough"


def test_layouts_of_a_pair_do_not_mix() -> None:
    upper, lower = shapely.box(12.0, 47.86, 12.5, 48.2), shapely.box(12.0, 47.0, 12.5, 47.87)
    older = [found(30, upper), found(30, lower, tag="77aa")]
    (item,) = choose_products([*older, found(30, upper, version="3_0_1")], chip, anchor)
    assert {frame.pair.version for frame in item.frames} == {(2, 0, 6)}, "version 3 holds a part of the chip only"
    (item,) = choose_products([*older, found(30, version="3_0_1")], chip, anchor)
    assert [frame.pair.version for frame in item.frames] == [(3, 0, 1)]


def test_a_chip_outside_every_frame_gets_nothing() -> None:
    products = ListedProducts([found(30), found(102)])
    assert len(products.near(chip)) == 2
    assert products.near(shapely.box(30.0, 10.0, 30.1, 10.1)) == []
    assert choose_products([], chip, anchor) == ()


def test_products_of_a_folder_a_list_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    first = write_product(tmp_path / "deep", Made(side=60, gap=30), name=product_name(30))
    second = write_product(tmp_path, Made(side=60, gap=30), name=product_name(102))
    (tmp_path / "notes.txt").write_text("nothing")
    assert len(find_products(str(tmp_path))) == 2
    (tmp_path / "list.txt").write_text(f"# mine\ndeep/{first.name}\n\n{second}  # absolute\n{second}\n")
    counted: list[int] = []
    products = find_products(str(tmp_path / "list.txt"), counted.append)
    assert len(products) == 2, "the same product twice is one"
    assert len(counted) == 3
    (only,) = find_products(str(first)).near(shapely.box(12.0, 47.96, 12.05, 48.0))
    assert only.pair.days == 30
    assert only.footprint.bounds == pytest.approx((12.0, 47.95, 12.05, 48.0))


def test_places_without_products(tmp_path: Path) -> None:
    with pytest.raises(NothingSelectedError, match="no S1-GUNW product in"):
        find_products(str(tmp_path))
    with pytest.raises(InputError, match="cannot read the list"):
        find_products(str(tmp_path / "none.txt"))
    (tmp_path / "list.txt").write_text("somewhere/else.nc\n")
    with pytest.raises(InputError, match="not the name of a S1-GUNW product"):
        find_products(str(tmp_path / "list.txt"))
    (tmp_path / product_name(30)).write_bytes(b"no netCDF")
    with pytest.raises(InputError, match="could not be read"):
        find_products(str(tmp_path))


class Remembering:
    """An archive that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float, float, float]] = []

    def search(
        self, bounds_lonlat: tuple[float, float, float, float], first: datetime, last: datetime
    ) -> list[FoundProduct]:
        assert first < last
        self.asked.append(bounds_lonlat)
        return [found(30)]


def test_an_archive_is_asked_once_for_a_neighbourhood() -> None:
    archive = Remembering()
    products = SearchedProducts(archive, anchor.replace(year=2019), anchor)
    assert [item.pair.days for item in products.near(chip)] == [30]
    products.near(shapely.box(12.15, 47.85, 12.2, 47.9))
    assert products.near(shapely.box(12.9, 46.1, 13.0, 46.2)) == [], "what the archive has lies elsewhere"
    assert archive.asked == [pytest.approx((11.8, 45.8, 14.2, 48.2))]
    products.near(shapely.box(179.9, 89.0, 179.99, 89.05))
    west, south, east, north = archive.asked[-1]
    assert (west, south) == pytest.approx((177.8, 87.8))
    assert (east, north) == (180.0, 90.0)


class FakeClient:
    """asf_search as far as it is used."""

    DATASET = SimpleNamespace(ARIA_S1_GUNW="ARIA S1 GUNW")

    class ASFError(Exception):
        """The client's own."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.asked: dict[str, object] = {}

    def search(self, **asked: object) -> list[SimpleNamespace]:
        self.asked = asked
        if self.fails:
            raise self.ASFError("HTTP 503")
        ring = [[12.0, 47.0], [12.5, 47.0], [12.5, 48.0], [12.0, 48.0], [12.0, 47.0]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        urls = (f"https://host/{product_name(102)}", f"https://host/{product_name(30)}", "https://host/x.png",
                "https://host/S1-GUNW-odd.nc")  # fmt: skip
        answers = [SimpleNamespace(properties={"url": url}, geometry=shape) for url in urls]
        return [*answers, SimpleNamespace(properties={"url": urls[0]}, geometry=None)]


def test_answers_of_the_archive_become_products() -> None:
    client = FakeClient()
    products = AsfArchive(client).search((12.0, 47.0, 12.5, 48.0), anchor.replace(year=2019), anchor)
    assert [item.pair.days for item in products] == [102, 30]
    assert products[0].footprint.bounds == (12.0, 47.0, 12.5, 48.0)
    assert client.asked["dataset"] == "ARIA S1 GUNW"
    assert shapely.from_wkt(str(client.asked["intersectsWith"])).bounds == (12.0, 47.0, 12.5, 48.0)
    with pytest.raises(RemoteError, match="search for S1-GUNW products failed: HTTP 503"):
        AsfArchive(FakeClient(fails=True)).search((12.0, 47.0, 12.5, 48.0), anchor, anchor)


@pytest.mark.filterwarnings("default")
def test_the_real_client_knows_what_is_asked_of_it() -> None:
    client = pytest.importorskip("asf_search", reason="the extra insar is not installed")
    asked = FakeClient()
    AsfArchive(asked).search((12.0, 47.0, 12.5, 48.0), anchor, anchor)
    assert set(asked.asked) <= set(inspect.signature(client.search).parameters)
    assert asked.DATASET.ARIA_S1_GUNW == client.DATASET.ARIA_S1_GUNW
    assert issubclass(client.ASFSearchError, client.ASFError)


def test_the_outline_of_a_chip_near_the_antimeridian_is_whole() -> None:
    outline = chip_polygon(chip_grid(epsg=32601, xmin=289_000.0, ymax=5_760_000.0, chip_m=4480.0, pixels=48))
    west, _, east, _ = outline.bounds
    assert 0.05 < east - west < 0.1
