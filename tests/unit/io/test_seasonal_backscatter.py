"""The row of seasonal Sentinel-1 over scenes of known backscatter: means of power, not of decibels, and no floor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fakes.scenery import Scene, left, session_over, top

from m3etl.io.answers import arrays_of, read_answer
from m3etl.io.earthengine import Session
from m3etl.io.pixels import PixelJob, expression_of, plan_requests
from m3etl.io.segments import Part
from m3etl.spec.catalog import find_array
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus
from m3etl.spec.modality import physical_of
from m3etl.spec.scenes import day_ms, utc_ms

chip = ChipGrid(chip_id="32632-0640-0781-8281", epsg=32632, xmin=left, ymax=top, chip_px=64)
july = utc_ms("2020-07-05T17:00:00Z")
mixture_db = (-8.0, -14.0, -20.0)  # a ploughed field, the same with leaves, the same under water
dark_db = (-33.0, -36.5, -41.25)  # calm water, cross-polarised
collection = "COPERNICUS/S1_GRD"


def level(value: float) -> Any:
    return lambda x, y: value + 0.0 * x


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    scenes = [
        Scene(
            f"{collection}/{n}",
            {"VV": ("float64", level(vv)), "VH": ("float64", level(vh))},
            time_ms=july + n * 12 * day_ms,
        )
        for n, (vv, vh) in enumerate(zip(mixture_db, dark_db, strict=True))
    ]
    with session_over(scenes, tmp_path_factory.mktemp("state")) as opened:
        yield opened


def stored(session: Session, name: str) -> dict[str, np.ndarray]:
    """Physical values by band as they come back from the chip's requests."""
    spec = find_array(name)
    scenes = ArrayScenes(status=ArrayStatus.OK, scene_ids=tuple(f"{collection}/{n}" for n in range(3)))
    job = PixelJob(chip=chip, specs={name: spec}, scenes={name: scenes}, check=False)
    parts = []
    for request in plan_requests(job):
        body = session.compute_pixels(expression_of(request))
        read_answer(request, body)
        parts.append(Part(asked=request.asked(), body=body))
    values = arrays_of(parts, {name: spec}, chip, {})[name]
    return dict(zip(spec.bands, physical_of(spec, values), strict=True))


def power(levels_db: tuple[float, ...]) -> np.ndarray:
    return 10 ** (np.array(levels_db) / 10)


def test_the_mean_of_a_mixture_is_that_of_its_power(session: Session) -> None:
    found = stored(session, "sentinel1_asc_seasons")
    theory = 10 * math.log10(power(mixture_db).mean())
    np.testing.assert_allclose(found["JJA_VV_mean"], theory, atol=0.0051)
    of_decibels = float(np.mean(mixture_db))
    assert theory - of_decibels == pytest.approx(2.42, abs=0.01), "what a mean of decibels would be too dark by"
    np.testing.assert_allclose(found["JJA_VV_median"], -14.0, atol=0.0051)
    np.testing.assert_allclose(found["JJA_VV_std"], 10 * math.log10(power(mixture_db).std()), atol=0.0051)


def test_values_below_minus_30_db_survive(session: Session) -> None:
    found = stored(session, "sentinel1_asc_seasons")
    theory = 10 * math.log10(power(dark_db).mean())
    assert theory < -35
    np.testing.assert_allclose(found["JJA_VH_mean"], theory, atol=0.0051)
    np.testing.assert_allclose(found["JJA_VH_median"], -36.5, atol=0.0051)


def test_a_season_without_an_image_is_missing_and_counts_say_how_many(session: Session) -> None:
    found, counts = stored(session, "sentinel1_asc_seasons"), stored(session, "sentinel1_asc_counts")
    for season in ("DJF", "MAM", "SON"):
        assert np.isnan(found[f"{season}_VV_mean"]).all()
        assert np.isnan(counts[f"{season}_VV_count"]).all()
    assert (counts["JJA_VV_count"] == 3).all()


def test_months_keep_their_own_level(session: Session) -> None:
    found = stored(session, "sentinel1_asc_months")
    theory = 10 * math.log10(power(mixture_db).mean())
    np.testing.assert_allclose(found["07_VV_mean"], theory, atol=0.0051)
    np.testing.assert_allclose(found["07_VH_mean"], 10 * math.log10(power(dark_db).mean()), atol=0.0051)
    assert np.isnan(found["08_VV_mean"]).all()
