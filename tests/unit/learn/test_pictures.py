"""Sheets of reconstructions: heights of all chips share one stretch, so that a prediction shows how far off it is."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.learn import pictures
from m3etl.learn.pictures import Line
from m3etl.spec.catalog import arrays


def sheet(name: str, levels: tuple[float, float]) -> list[Line]:
    spec = arrays[name]
    lines = []
    for level in levels:
        target = np.full((len(spec.bands), 16, 16), level, spec.dtype)
        target[:, ::2] += np.asarray(5, spec.dtype)
        hidden = np.zeros((16, 16), dtype=bool)
        hidden[:8] = True
        lines.append(Line("chip", np.zeros((16, 16, 3), np.uint8), hidden, target, target))
    return lines


@pytest.mark.parametrize(("name", "stretches"), [("aster_elevation", 1), ("sentinel2_l2a", 2)])
def test_heights_share_a_stretch_and_brightness_does_not(tmp_path, monkeypatch, name, stretches):
    used = []
    render = pictures.render
    monkeypatch.setattr(pictures, "render", lambda *given: used.append(given[2]) or render(*given))
    lines = sheet(name, (100, 4000) if name == "aster_elevation" else (500, 9000))
    pictures._write_sheet(tmp_path / "sheet.png", arrays[name], lines)
    assert len(used) == 4
    assert len(set(used)) == stretches
    assert (tmp_path / "sheet.png").stat().st_size > 1000
