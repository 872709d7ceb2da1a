"""A user's own arrays: examples, a pilot chip, an export, and what is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from m3etl.io.provenance import read_provenance
from m3etl.io.store import open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.spec.declarations import parse_declarations
from m3etl.spec.modality import Values, valid_of
from tests.integration.pipeline import m3etl, write_points

examples = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.toml"))
palsar2 = next(path for path in examples if path.stem == "palsar2")


@pytest.mark.parametrize("path", examples, ids=lambda path: path.stem)
def test_the_examples_declare_their_arrays(path: Path) -> None:
    (spec,) = parse_declarations(path.read_text(), file=path.name)
    assert spec.name == path.stem


@pytest.mark.parametrize("path", examples, ids=lambda path: path.stem)
def test_the_examples_run_on_a_pilot_chip(tmp_path: Path, path: Path) -> None:
    """`modalities check FILE` as docs/own-arrays.md shows it: every band of every example has values."""
    found = json.loads(m3etl(tmp_path, "--json", "modalities", "check", str(path)).stdout)
    (spec,) = parse_declarations(path.read_text(), file=path.name)
    assert [row["status"] for row in found["arrays"]] == ["ok"]
    assert [row["band"] for row in found["bands"]] == list(spec.bands)
    for row in found["bands"]:
        assert row["valid"] > 0.5
        assert spec.valid_min <= row["min"] <= row["max"] <= spec.valid_max


@pytest.fixture(scope="module")
def with_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of two places with all the examples at once, exported, sealed and normalised."""
    root = tmp_path_factory.mktemp("examples")
    points = write_points(root / "points.geojson", [(8.52, 47.3, "2019-07-10"), (2.2, 48.7, "2019-06-01")])
    m3etl(root, "sample", "--strategy", "points", "--points", str(points), "--chip-px", "48")
    m3etl(root, "export", "--modality", "month", *(part for path in examples for part in ("--declare", str(path))))
    m3etl(root, "normalize")
    return root


@pytest.mark.parametrize("path", examples, ids=lambda path: path.stem)
def test_the_examples_are_exported_and_come_as_tensors(with_examples: Path, path: Path) -> None:
    (spec,) = parse_declarations(path.read_text(), file=path.name)
    records = read_provenance(with_examples / "provenance")
    mine = records[records["array"] == spec.name]
    assert set(mine["status"]) == {"ok"}
    assert {item.startswith(f"{spec.source[0]}/") for ids in mine["scene_ids"] for item in ids} == {True}
    stored, physical = (
        ChipDataset(with_examples, arrays=[spec.name], split=None, values=values) for values in ("stored", "physical")
    )
    for position in range(2):
        item = stored[position]
        assert item[spec.name].shape == spec.chip_shape(480.0)
        assert item[spec.name].numpy().dtype == np.dtype(spec.dtype)
        assert item[f"{spec.name}_valid"].float().mean() > 0.5
        known = physical[position][spec.name][item[f"{spec.name}_valid"]]
        assert spec.valid_min <= known.min() <= known.max() <= spec.valid_max
        if spec.values is Values.CLASSES:
            assert set(known.tolist()) <= {code.code for code in spec.classes}
    if spec.name == "alphaearth":
        lengths = np.linalg.norm(physical[0][spec.name].numpy(), axis=0)
        np.testing.assert_allclose(lengths, 1.0, atol=0.02)
    if spec.name == "opera_rtc":
        days = [pd.Timestamp(date, tz="UTC") for date in ("2019-07-10", "2019-06-01")]
        assert all(min(abs((time - day).days) for day in days) <= 12 for time in mine["time"])
    item = ChipDataset(with_examples, arrays=[spec.name], split=None)[0]
    assert item[spec.name].isfinite().all()


def test_check_tells_what_a_file_would_store(tmp_path: Path) -> None:
    found = json.loads(m3etl(tmp_path, "--json", "modalities", "check", str(palsar2)).stdout)
    text = json.dumps(found)
    assert '"palsar2"' in text
    assert "32632-1280" in text
    assert not (tmp_path / "campaign.toml").exists(), "nothing is left behind"


def test_a_declared_array_is_exported_and_stays_declared(tmp_path: Path) -> None:
    points = write_points(tmp_path / "points.geojson", [(8.5, 47.3, "2019-07-10"), (2.2, 48.7, "2019-06-01")])
    m3etl(tmp_path, "sample", "--strategy", "points", "--points", str(points), "--chip-px", "32")
    m3etl(tmp_path, "export", "--modality", "aster", "--declare", str(palsar2))
    store = open_store(tmp_path / "chips.zarr")
    assert set(store.specs) == {"aster_elevation", "aster_slope", "palsar2"}
    rows = np.flatnonzero(store.chip_ids != "")
    assert valid_of(store.specs["palsar2"], store.read("palsar2", rows)).all()
    m3etl(tmp_path, "normalize")
    assert set(json.loads((tmp_path / "stats.json").read_text())["palsar2"]) == {"HH", "HV"}
    changed = tmp_path / "other" / "palsar2.toml"
    changed.parent.mkdir()
    changed.write_text(palsar2.read_text().replace("valid_max = 65534", "valid_max = 60000"))
    refused = m3etl(tmp_path, "export", "--declare", str(changed), check=False)
    assert refused.returncode == 2
    assert "declares its arrays otherwise" in refused.stderr


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"HV"]', '"HX"]', "palsar2.toml:6: JAXA/ALOS/PALSAR/YEARLY/SAR_EPOCH has no band HX; it has HH, HV"),
        ("YEARLY/SAR_EPOCH", "YEARLY/NONE", "palsar2.toml:5: the asset JAXA/ALOS/PALSAR/YEARLY/NONE can't be read"),
        ('dtype = "uint16"', 'dtype = "uint8"', "palsar2.toml:11: array 'palsar2' is declared wrongly: fill 65535"),
        ("fill = 65535\n", "fill = 300\n", "palsar2.toml:11: array 'palsar2' is declared wrongly: fill 300 is a valid"),
        ("valid_max = 65534", "valid_max = 70000", "uint16 cannot hold [1.0, 70000.0]"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "palsar2.toml"
    path.write_text(palsar2.read_text().replace(old, new))
    refused = m3etl(tmp_path, "modalities", "check", str(path), check=False)
    assert refused.returncode == 2
    assert expected in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_export_with_a_bad_file_sends_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    points = write_points(tmp_path / "points.geojson", [(8.5, 47.3, "2019-07-10")])
    m3etl(tmp_path, "sample", "--strategy", "points", "--points", str(points), "--chip-px", "32")
    path = tmp_path / "bad.toml"
    path.write_text(palsar2.read_text().replace('"HV"]', '"HX"]'))
    refused = m3etl(tmp_path, "export", "--modality", "aster", "--declare", str(path), check=False)
    assert refused.returncode == 2
    assert "has no band HX" in refused.stderr
    assert not (tmp_path / "modalities").exists()
    assert not (tmp_path / "chips.zarr").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[[array]]\nname = ", b"x" * 2_000_000])
def test_files_that_are_no_declaration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    refused = m3etl(tmp_path, "modalities", "check", str(path), check=False)
    assert refused.returncode == 2
    assert "bad.toml" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_hook_is_checked_exported_and_refused_with_its_line(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "my_recipes.py").write_text(
        "def ratio(ee, images):\n"
        "    brightest = images.qualityMosaic('HH')\n"
        "    return brightest.select('HV').divide(brightest.select('HH')).rename('ratio')\n"
    )
    path = tmp_path / "ratio.toml"
    path.write_text(
        '[[array]]\nname = "palsar_ratio"\nasset = "JAXA/ALOS/PALSAR/YEARLY/SAR_EPOCH"\nbands = ["ratio"]\n'
        'window = "year"\nhook = "my_recipes:ratio"\ndtype = "uint16"\nfill = 65535\nscale = 0.001\nvalid_min = 0\n'
        "valid_max = 60\nnative_gsd_m = 25\n"
    )
    here = {"PYTHONPATH": str(code)}
    (row,) = json.loads(m3etl(tmp_path, "--json", "modalities", "check", str(path), **here).stdout)["bands"]
    assert (row["band"], row["valid"]) == ("ratio", 1.0)
    assert 0.1 < row["mean"] < 1
    refused = m3etl(tmp_path, "modalities", "check", str(path), check=False)
    assert refused.returncode == 2
    assert "ratio.toml:6: the hook my_recipes:ratio of palsar_ratio can't be had" in refused.stderr
    assert "PYTHONPATH" in refused.stderr
    points = write_points(tmp_path / "points.geojson", [(8.5, 47.3, "2019-07-10"), (8.6, 47.3, "2019-07-10")])
    m3etl(tmp_path, "sample", "--strategy", "points", "--points", str(points), "--chip-px", "32")
    m3etl(tmp_path, "export", "--modality", "month", "--declare", str(path), **here)
    item = ChipDataset(tmp_path, arrays=["palsar_ratio"], split=None, values="physical")[0]
    assert item["palsar_ratio"].shape == (1, 13, 13)
    assert 0.1 < item["palsar_ratio"].mean() < 1


def test_an_early_image_of_one_polarisation_does_not_hide_the_other(tmp_path: Path) -> None:
    """Where the collection begins with images of VV alone, VH is there all the same."""
    opera = next(path for path in examples if path.stem == "opera_rtc")
    place = ("--at=-58.45,-34.6", "--year", "2019")
    (row,) = json.loads(m3etl(tmp_path, "--json", "modalities", "check", str(opera), *place).stdout)["arrays"]
    assert row["status"] == "ok"
    path = tmp_path / "opera_rtc.toml"
    path.write_text(opera.read_text().replace('"VH"]', '"HV"]'))
    refused = m3etl(tmp_path, "modalities", "check", str(path), *place, check=False)
    assert refused.returncode == 2
    assert "opera_rtc.toml:6: OPERA/RTC/L2_V1/S1 has no band HV; it has VV, VH, mask" in refused.stderr
