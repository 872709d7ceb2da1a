"""The same checks against the embedded Earth Engine and, with an account, against the real one.

`make test ARGS="--online tests/online"` with M3ETL_EE_PROJECT set, after `earthengine authenticate`; few requests.
"""

from __future__ import annotations

import io
import os

import numpy as np
import pytest

from m3etl.io.earthengine import open_session, read_ecoregions
from m3etl.spec.biomes import biome_names

project = os.environ.get("M3ETL_EE_PROJECT", "")

# A place of 16 x 16 pixels in Tanzania, on the 10 m lattice.
grid = {
    "dimensions": {"width": 16, "height": 16},
    "affineTransform": {
        "scaleX": 10,
        "shearX": 0,
        "translateX": 600_000,
        "shearY": 0,
        "scaleY": -10,
        "translateY": 9_300_000,
    },
    "crsCode": "EPSG:32736",
}


@pytest.fixture(scope="module", params=["embedded", pytest.param("", id="live", marks=pytest.mark.online)])
def session(request):
    with open_session(url=request.param, project="" if request.param else project) as opened:
        yield opened


def pixels(session, image) -> np.ndarray:
    body = session.compute_pixels({"expression": image, "fileFormat": "NPY", "grid": grid})
    return np.load(io.BytesIO(body), allow_pickle=False)


def test_a_pixel_lies_where_its_grid_says(session):
    image = session.api.Image.pixelCoordinates("EPSG:32736").rename(["x", "y"])
    found = pixels(session, image)
    np.testing.assert_allclose(found["x"][0], 600_005 + 10 * np.arange(16), atol=0.01)
    np.testing.assert_allclose(found["y"][:, 0], 9_299_995 - 10 * np.arange(16), atol=0.01)


def test_one_answer_holds_bands_of_different_types(session):
    api = session.api
    image = (
        api.Image(7)
        .toByte()
        .rename("a")
        .addBands(api.Image(-3).toInt16().rename("b"))
        .addBands(api.Image(0.5).toFloat())
    )
    found = pixels(session, image)
    assert [found.dtype[name].str for name in found.dtype.names] == ["|u1", "<i2", "<f4"]


def test_a_filled_mask_comes_back_as_the_fill(session):
    image = session.api.Image(5).updateMask(0).unmask(200, False).toByte().rename("a")
    assert set(np.unique(pixels(session, image)["a"])) == {200}


def test_nearest_is_the_default_resampling(session):
    cover = session.api.ImageCollection("ESA/WorldCover/v100").first().select("Map")
    codes = set(np.unique(pixels(session, session.api.ImageCollection("ESA/WorldCover/v100").mosaic().toByte())["Map"]))
    assert codes <= {0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100}
    assert session.compute_value(cover.projection().nominalScale()) < 12


def test_the_ecoregions_are_all_there(session):
    table = read_ecoregions(session, simplify_m=10_000)
    names = set(table["BIOME_NAME"]) - {"N/A"}
    assert names == set(biome_names)
    assert len(table) == len(set(table["ECO_ID"])) >= 100
