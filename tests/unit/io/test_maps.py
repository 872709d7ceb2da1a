"""The map page stands alone: its code is inside, and no address other than the optional background is asked for."""

from __future__ import annotations

import re

from m3etl.io.maps import write_map

square = {"type": "Polygon", "coordinates": [[[10, 50], [10.1, 50], [10.1, 50.1], [10, 50.1], [10, 50]]]}
chip = {
    "chip_id": "32632-1280-0429-4956",
    "lon": 10.05,
    "lat": 50.05,
    "biome": "Tundra",
    "biome_id": 0,
    "ecoregion": 3,
    "split": "train",
    "year": 2019,
    "row": 0,
    "outline": square,
}


def test_page_holds_chips_picture_and_its_own_script(tmp_path):
    path = tmp_path / "map.html"
    write_map(
        path, [chip], regions={"europe": square}, thumbnails={chip["chip_id"]: b"\x89PNG"}, title="campaign: 1 chip"
    )
    page = path.read_text()
    assert "32632-1280-0429-4956" in page
    assert "campaign: 1 chip" in page
    assert "data:image/png;base64,iVBORw==" in page
    assert "Leaflet 1.9.4" in page
    assert re.findall(r'<(?:script|link)[^>]+(?:src|href)="http', page) == []
    legend = page[page.index('<details class="m3etl-legend"') :]
    assert "Montane Grasslands &amp; Shrublands" in legend
    assert "no biome" in legend


def test_empty_plan_is_still_a_page(tmp_path):
    path = tmp_path / "map.html"
    write_map(path, [], regions={}, thumbnails={}, title="nothing yet")
    assert "nothing yet" in path.read_text()
