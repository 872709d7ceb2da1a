"""Whole programs in the style of published downloaders, built with the client's classes: what they print and fetch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely

from m3etl.emulator.model import BandInfo, PixelType, Projection
from tests.fakes.ee_in_process import ee
from tests.fakes.known_assets import DAY, INSIDE, JUNE_1, KnownAssets, KnownCollection, known, make_image
from tests.unit.emulator.evaluating import Session, utm_grid

MONTHLY = Projection(crs="EPSG:4326", transform=(0.1, 0.0, 5.0, 0.0, -0.1, 50.0))


class Earth(KnownAssets):
    """The known assets with monthly climate and land cover beside them."""

    def __init__(self) -> None:
        super().__init__()
        float_band = PixelType.of("float32")
        climate = [BandInfo(id="temperature_2m", pixel_type=float_band, projection=MONTHLY, dimensions=(200, 200))]
        label = [BandInfo(id="label", pixel_type=PixelType.of("uint8"), projection=MONTHLY, dimensions=(200, 200))]
        globe = shapely.box(5, 40, 25, 50)
        months = [
            make_image(f"ERA/2020{month:02d}", 0, start=JUNE_1 + (month - 6) * 31 * DAY, bands=climate, footprint=globe)
            for month in (5, 6)
        ]
        covers = [make_image(f"DW/d{n}", 0, start=JUNE_1 + n * DAY, bands=label, footprint=globe) for n in range(3)]
        self.more = {"ERA": KnownCollection(id="ERA", images=months), "DW": KnownCollection(id="DW", images=covers)}

    def collection(self, asset_id: str) -> KnownCollection | None:
        return self.more.get(asset_id) or super().collection(asset_id)


@pytest.fixture
def earth(session: Session) -> Session:
    session.use(Earth())
    return session


def tile() -> Any:
    return ee.Feature(ee.Geometry.Point(INSIDE).buffer(650)).bounds().geometry()


def test_a_chip_of_several_products(earth: Session) -> None:
    region = tile()
    around = region.buffer(200)
    scenes = (
        ee.ImageCollection("S2")
        .filterDate("2020-06-01", "2020-07-01")
        .filterBounds(region)
        .filter(ee.Filter.lt("CLOUD", 25))
        .filter(ee.Filter.contains(".geo", around.buffer(-400)))
    )
    assert scenes.size().getInfo() == 3
    scene = ee.Image(scenes.toList(scenes.size()).get(0))
    assert scene.date().format("YYYY-MM-dd").getInfo() == "2020-06-11"
    target = scene.select("B2").projection()
    reflectance = scene.select(["B2", "B3"]).resample("bilinear").reproject(target)
    classes = scene.select("SCL").reproject(target)
    elevation = ee.Image("DEM").resample("bilinear").reproject(target).clip(region)
    relief = elevation.addBands(ee.Terrain.slope(elevation))
    cover = ee.ImageCollection("DW").filterDate("2020-01-01", "2021-01-01").select("label").mode().add(1)
    zeros = cover.where(cover.eq(3), 0).rename("label").float()
    merged = ee.Image.cat([reflectance.float(), classes.float(), relief.float(), zeros]).clip(region)
    assert merged.bandNames().getInfo() == ["B2", "B3", "SCL", "elevation", "slope", "label"]
    built = merged.setDefaultProjection("EPSG:32632", [1, 0, 0, 0, -1, 0])
    cut = ee.ApiFunction.apply_("Image.clipToBoundsAndScale", {"input": built, "geometry": region, "scale": 10})
    raster = earth.pixels(cut)
    # 1300 m along the meridians and parallels are a few pixels more along the rotated UTM grid.
    assert 131 <= raster.grid.width <= 135
    assert 131 <= raster.grid.height <= 135
    assert raster.grid.projection.crs == "EPSG:32632"
    assert [value % 10 for value in raster.grid.projection.transform] == [0.0] * 6
    column = round((raster.grid.projection.transform[2] - 600000) / 10) + 60
    row = round((5200000 - raster.grid.projection.transform[5]) / 10) + 60
    assert raster.bands["B2"][60, 60] == known(2, 0, column, row)
    assert raster.bands["SCL"][60, 60] == known(2, 3, column // 2, row // 2) % 256
    assert all(valid[60, 60] for valid in raster.valid.values())
    # The corners of the snapped extent lie outside of the rotated tile, and slope lacks neighbours at its rim.
    assert not raster.valid["B2"][0, 0]
    assert raster.valid["slope"].sum() < raster.valid["elevation"].sum()


def test_climate_of_a_month_and_its_band_names(earth: Session) -> None:
    months = ee.ImageCollection("ERA").filterDate("2020-04-15", "2020-07-01").select("temperature_2m")
    stacked = months.toBands().addBands(ee.ImageCollection([months.reduce(ee.Reducer.mean())]).toBands())
    assert stacked.bandNames().getInfo() == [
        "202005_temperature_2m",
        "202006_temperature_2m",
        "0_temperature_2m_mean",
    ]
    values = stacked.reduceRegion(ee.Reducer.mean(), tile(), 11132, "EPSG:4326").getInfo()
    column, row = int((INSIDE[0] - 5) / 0.1), int((50 - INSIDE[1]) / 0.1)
    assert values["202005_temperature_2m"] == pytest.approx(float(known(0, 0, column, row)), abs=2.0)
    assert values["0_temperature_2m_mean"] == pytest.approx(values["202005_temperature_2m"])


def test_the_nearest_pass_in_time(earth: Session) -> None:
    anchor = ee.Date("2020-06-13")
    passes = ee.ImageCollection("S2").filter(ee.Filter.eq("ORBIT", "ASC"))
    ranked = passes.map(lambda image: image.set("gap", ee.Number(image.date().difference(anchor, "day")).abs())).sort(
        "gap"
    )
    assert ranked.first().get("system:index").getInfo() == "i3"
    assert ranked.aggregate_array("gap").getInfo() == [3, 7]


def test_a_cloud_free_composite(earth: Session) -> None:
    def masked(image: Any) -> Any:
        clear = image.select("SCL").mod(10).lt(5)
        return image.select(["B2", "B3"]).updateMask(clear).copyProperties(image, ["system:time_start"])

    raster = earth.pixels(ee.ImageCollection("S2").map(masked).median(), utm_grid(110, 0, 20, 4))
    columns, rows = np.meshgrid(np.arange(110, 130), np.arange(4))
    numbers = np.arange(1, 5)[:, None, None]
    values = known(numbers, 0, columns, rows).astype(float)
    clear = known(numbers, 3, columns // 2, rows // 2) % 256 % 10 < 5
    values[~clear] = np.nan
    np.testing.assert_array_equal(raster.valid["B2"], clear.any(axis=0))
    chosen = raster.valid["B2"]
    np.testing.assert_allclose(raster.bands["B2"][chosen], np.nanmedian(values[:, chosen], axis=0))


def test_a_shadowed_name_in_nested_functions(earth: Session) -> None:
    years = ee.List([2020, 2021])

    def of_year(year: Any) -> Any:
        months = ee.List([6, 7]).map(
            lambda month: (
                ee.ImageCollection("S2")
                .filter(ee.Filter.calendarRange(year, year, "year"))
                .filter(ee.Filter.calendarRange(month, month, "month"))
                .size()
            )
        )
        return months

    assert years.map(of_year).getInfo() == [[4, 0], [0, 0]]
