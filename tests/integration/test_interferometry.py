"""Interferograms from products on the disk, by the command line: stored, described, checked, not exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m3etl.compute.warp import transformer
from m3etl.io.provenance import read_provenance
from tests.fakes.gunw import Made, product_name, ramp, write_product
from tests.integration.pipeline import StoredChips, m3etl, write_points

places = [(12.1, 47.9, "2020-01-20"), (8.5, 47.3, "2019-07-10")]  # the second lies outside of every product


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gunw")
    points = write_points(root / "points.geojson", places)
    m3etl(root, "sample", "--strategy", "points", "--points", str(points), "--chip-px", "128")
    m3etl(root, "export", "--modality", "aster", "--modality", "biome")
    products = root / "products"
    products.mkdir()
    for days, version in ((30, 2), (102, 3), (360, 2)):
        write_product(products, Made(), version=version, name=product_name(days, version=f"{version}_0_1"))
    (root / "list.txt").write_text("".join(f"products/{path.name}\n" for path in sorted(products.iterdir())))
    return root


def test_products_become_arrays_of_the_campaign(campaign: Path) -> None:
    found = json.loads(m3etl(campaign, "--json", "tile", "--gunw", str(campaign / "list.txt")).stdout)
    assert '"chips with interferograms": 1' in json.dumps(found)
    stored = StoredChips(campaign)
    places_of = stored.plan["lon"]
    inside, outside = sorted(stored.ids, key=lambda chip_id: -float(places_of.loc[chip_id]))
    phase, component = stored.physical("gunw_phase", inside), stored.physical("gunw_component", inside)
    assert phase.shape == (3, 14, 14)
    x, y = stored.centres("gunw_phase", inside)
    chip = stored.plan.loc[inside]
    lon, lat = transformer(f"EPSG:{chip['epsg']}", "EPSG:4326").transform(x, y)
    truth = ramp[0] * lon + ramp[1] * lat
    for band in (0, 1):
        for label in np.unique(component[band][np.isfinite(component[band])]):
            assert np.ptp((phase[band] - truth)[component[band] == label]) < 0.01
    assert np.isnan(phase[2]).all(), "360 days belong to no window"
    assert np.isnan(stored.physical("gunw_phase", outside)).all()
    records = read_provenance(campaign / "provenance")
    mine = records[records["array"] == "gunw_phase"].set_index("chip_id")
    assert mine.loc[outside, "status"] == "no_scene"
    assert (mine.loc[inside, "status"], mine.loc[inside, "origin"]) == ("ok", "import")
    assert mine.loc[inside, "gap_days"] == pytest.approx(-8, abs=1.5), "12 January, the anchor 20 January"
    for command in ("normalize", "describe", "preview", "validate"):
        m3etl(campaign, command)
    assert set(json.loads((campaign / "stats.json").read_text())) >= {"gunw_phase", "gunw_coherence"}
    assert (campaign / "previews" / "gunw_phase.png").stat().st_size > 1000


def test_chips_that_come_later_have_none_until_they_are_given(campaign: Path) -> None:
    points = write_points(campaign / "more.geojson", [(12.05, 47.85, "2020-02-01")])
    m3etl(campaign, "sample", "--add", "--strategy", "points", "--points", str(points))
    m3etl(campaign, "export")
    before = StoredChips(campaign)
    (later,) = [chip_id for chip_id in before.ids if before.plan.loc[chip_id, "lat"] < 47.87 and chip_id[:5] == "32633"]
    assert np.isnan(before.physical("gunw_phase", later)).all()
    assert np.isfinite(before.physical("aster_elevation", later)).all()
    m3etl(campaign, "tile", "--gunw", str(campaign / "products"))
    after = StoredChips(campaign)
    assert np.isfinite(after.physical("gunw_phase", later)[0]).any()
    m3etl(campaign, "validate")


def test_earth_engine_is_not_asked_for_interferograms(campaign: Path) -> None:
    refused = m3etl(campaign, "export", "--modality", "gunw", check=False)
    assert refused.returncode == 2
    assert "tile --gunw" in refused.stderr
    wrong = m3etl(campaign, "tile", "--gunw", str(campaign / "nothing"), check=False)
    assert wrong.returncode == 2
    assert "cannot read the list of products" in wrong.stderr
    assert "Traceback" not in refused.stderr + wrong.stderr
