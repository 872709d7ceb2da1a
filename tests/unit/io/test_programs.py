"""Programs through the client's own classes over images whose every pixel is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3etl.emulator.evaluate import Evaluator
from m3etl.errors import InputError
from m3etl.io.layout import declaration_of, spec_of
from m3etl.io.programs import filtered, hook_image, load_hook, program_image
from m3etl.spec.declarations import parse_declarations
from m3etl.spec.modality import ArraySpec, Resampling, Shape, Temporal, Values
from m3etl.spec.program import Comparison, Filter, Mask, Output, Program, Window, monthly, seasonal
from tests.fakes import ee_in_process
from tests.fakes.ee_in_process import ee
from tests.fakes.known_assets import DAY, JUNE_1, KnownAssets, known, make_image

side = 6
grid = ee_in_process.grid("EPSG:32632", (10.0, 0.0, 601_000.0, 0.0, -10.0, 5_199_000.0), side, side)
column, row = np.meshgrid(100 + np.arange(side), 100 + np.arange(side))
images = tuple(f"S2/i{number}" for number in range(1, 5))


@pytest.fixture(scope="module")
def transport() -> Iterator[ee_in_process.Transport]:
    with ee_in_process.client() as made:
        yield made


@pytest.fixture
def assets(transport: ee_in_process.Transport) -> KnownAssets:
    found = KnownAssets()
    transport.evaluator = Evaluator(found)
    return found


def array(program: Program, **changes: Any) -> ArraySpec:
    declared: dict[str, Any] = {
        "name": "made", "modality": "made", "title": "made up", "shape": Shape.RASTER, "values": Values.CONTINUOUS,
        "bands": tuple(output.name for output in program.outputs), "dtype": "float32", "fill": None, "units": "1",
        "source": ("S2",), "recipe": "program", "temporal": Temporal.STATIC, "license": "own", "native_gsd_m": 10.0,
        "resampling": Resampling.NEAREST, "program": program,
    }  # fmt: skip
    return ArraySpec(**{**declared, **changes})


def bands_of(assets: KnownAssets, spec: ArraySpec, scenes: tuple[str, ...] = images) -> dict[str, np.ndarray]:
    """Bands as float with NaN where nothing was observed."""
    raster = ee_in_process.pixels(Evaluator(assets), program_image(ee, spec, scenes), grid)
    return {
        name: np.where(raster.valid[name], np.asarray(raster.bands[name], np.float64), np.nan) for name in raster.bands
    }


def stack(band: int = 0, numbers: tuple[int, ...] = (1, 2, 3, 4)) -> np.ndarray:
    return np.array([known(number, band, column, row) for number in numbers], dtype=np.float64)


def outputs(*reducers: str) -> tuple[Output, ...]:
    return tuple(Output(name=f"B2_{name}", band="B2", reducer=name) for name in reducers)


def test_reducers_over_the_images_of_a_year(assets: KnownAssets) -> None:
    program = Program(outputs=outputs("mean", "median", "min", "max", "sum", "std", "count", "p25"), window=Window.YEAR)
    found = bands_of(assets, array(program))
    values = stack()
    np.testing.assert_allclose(found["B2_mean"], values.mean(0))
    np.testing.assert_allclose(found["B2_median"], np.median(values, 0))
    np.testing.assert_allclose(found["B2_min"], values.min(0))
    np.testing.assert_allclose(found["B2_max"], values.max(0))
    np.testing.assert_allclose(found["B2_sum"], values.sum(0))
    np.testing.assert_allclose(found["B2_std"], values.std(0), rtol=1e-6)
    np.testing.assert_allclose(found["B2_count"], 4)
    assert ((found["B2_p25"] >= values.min(0)) & (found["B2_p25"] <= np.median(values, 0))).all()


def test_later_images_lie_on_top_and_a_missing_band_is_masked(assets: KnownAssets) -> None:
    program = Program(outputs=(Output(name="first", band="B3"), Output(name="none", band="B99")))
    found = bands_of(assets, array(program), images[:2])
    np.testing.assert_array_equal(found["first"], known(2, 1, column, row))
    assert np.isnan(found["none"]).all()


def test_masks_by_value_limits_and_bits(assets: KnownAssets) -> None:
    values = known(1, 0, column, row)
    by_value = Mask(band="B2", values=(float(values[0, 0]), float(values[2, 3])))
    limited = Mask(band="B2", at_least=float(values[1, 0]))
    bits = Mask(band="B2", bits=(0,))
    for mask, kept in (
        (by_value, ~np.isin(values, by_value.values)),
        (limited, values >= values[1, 0]),
        (bits, values % 2 == 0),
    ):
        program = Program(outputs=(Output(name="B2", band="B2"),), masks=(mask,))
        found = bands_of(assets, array(program), images[:1])["B2"]
        np.testing.assert_array_equal(~np.isnan(found), kept)


def test_a_value_masked_in_one_image_is_left_out_of_the_mean(assets: KnownAssets) -> None:
    program = Program(outputs=outputs("mean", "count"), masks=(Mask(band="B2", at_least=2000.0),), window=Window.YEAR)
    found = bands_of(assets, array(program))
    np.testing.assert_allclose(found["B2_mean"], stack(numbers=(2, 3, 4)).mean(0))
    np.testing.assert_allclose(found["B2_count"], 3)


def test_seasons_are_kept_apart_and_an_empty_one_is_masked(assets: KnownAssets) -> None:
    march = make_image("S2/march", 7, start=JUNE_1 - 80 * DAY)
    december = make_image("S2/december", 8, start=JUNE_1 - 170 * DAY)
    assets.s2.images += [march, december]
    program = Program(outputs=seasonal(("B2",), ("mean", "count")), window=Window.SEASONS)
    found = bands_of(assets, array(program), (*images, "S2/march", "S2/december"))
    np.testing.assert_allclose(found["JJA_B2_mean"], stack().mean(0))
    np.testing.assert_allclose(found["MAM_B2_mean"], known(7, 0, column, row))
    np.testing.assert_allclose(found["DJF_B2_mean"], known(8, 0, column, row))
    assert np.isnan(found["SON_B2_mean"]).all()
    assert np.isnan(found["SON_B2_count"]).all()


def test_months_are_kept_apart(assets: KnownAssets) -> None:
    program = Program(outputs=monthly(("B2",), ("median",)), window=Window.YEAR)
    found = bands_of(assets, array(program))
    np.testing.assert_allclose(found["06_B2_median"], np.median(stack(), 0))
    assert np.isnan(found["07_B2_median"]).all()


def test_decibels_are_reduced_in_linear_power(assets: KnownAssets) -> None:
    program = Program(outputs=outputs("mean", "count"), decibel=True, window=Window.YEAR)
    spec = array(program, scale=0.01, dtype="int16", fill=-32768, valid_min=-300.0, valid_max=300.0)
    levels = {"one": -10.0, "other": -20.0}
    constants = [ee.Image.constant(level).toFloat().rename("B2") for level in levels.values()]
    made = program_image(_Images(constants), spec, tuple(levels))
    raster = ee_in_process.pixels(Evaluator(assets), made, grid)
    theory = 10 * math.log10((10 ** (levels["one"] / 10) + 10 ** (levels["other"] / 10)) / 2)
    np.testing.assert_allclose(raster.bands["B2_mean"] * spec.scale, theory, atol=1e-4)
    assert abs(theory - np.mean([*levels.values()])) > 2.4, "a mean of decibels would be 2.4 dB off"
    np.testing.assert_allclose(raster.bands["B2_count"], 2 / spec.scale)


class _Images:
    """The client's module, with made images for asset ids."""

    def __init__(self, made: list[Any]) -> None:
        self._made = iter(made)

    def __getattr__(self, name: str) -> Any:
        return getattr(ee, name)

    @property
    def Image(self) -> Any:
        made = self._made

        class Image:
            constant = staticmethod(ee.Image.constant)

            def __new__(cls, value: Any) -> Any:
                return next(made) if isinstance(value, str) else ee.Image(value)

        return Image


def test_source_scale_and_offset_give_physical_units(assets: KnownAssets) -> None:
    program = Program(outputs=(Output(name="B2", band="B2"),), source_scale=0.1, source_offset=5.0)
    spec = array(program, dtype="uint16", fill=65535, scale=0.5, offset=-10.0, valid_min=-10.0, valid_max=3000.0)
    found = bands_of(assets, spec, images[:1])["B2"]
    np.testing.assert_allclose(found * 0.5 - 10.0, known(1, 0, column, row) * 0.1 + 5.0, atol=1e-4)


@pytest.mark.parametrize(
    ("comparison", "value", "expected"),
    [
        (Comparison.EQUALS, "ASC", ["i1", "i3"]),
        (Comparison.NOT_EQUALS, "ASC", ["i2", "i4"]),
        (Comparison.ONE_OF, ("ASC", "X"), ["i1", "i3"]),
    ],
)
def test_filters_by_text(assets: KnownAssets, comparison: Comparison, value: Any, expected: list[str]) -> None:
    kept = filtered(ee, ee.ImageCollection("S2"), [Filter(property="ORBIT", comparison=comparison, value=value)])
    assert kept.aggregate_array("system:index").getInfo() == expected


def test_filters_by_number(assets: KnownAssets) -> None:
    limits = [
        Filter(property="CLOUD", comparison=Comparison.AT_LEAST, value=10),
        Filter(property="CLOUD", comparison=Comparison.AT_MOST, value=20),
    ]
    assert filtered(ee, ee.ImageCollection("S2"), limits).aggregate_array("system:index").getInfo() == ["i2", "i3"]


def test_a_declaration_with_a_program_survives_the_store() -> None:
    program = Program(
        outputs=seasonal(("VV", "VH"), ("mean",)),
        window=Window.SEASONS,
        filters=(Filter(property="instrumentMode", comparison=Comparison.EQUALS, value="IW"),),
        masks=(Mask(band="angle", at_least=30.0), Mask(band="QA60", bits=(10, 11))),
        decibel=True,
    )
    spec = array(program)
    again = spec_of(declaration_of(spec))
    assert again == spec
    assert again.digest() == spec.digest()
    assert Program.from_json(asdict(program)) == program


# --- what a TOML file says, run --------------------------------------------------------------------------------------

file = """
[[array]]
name = "mine"
asset = "S2"
bands = ["B2"]
window = "year"
dtype = "float32"
native_gsd_m = 10
resampling = "nearest"
"""


def declared(more: str = "", text: str = file) -> ArraySpec:
    (spec,) = parse_declarations(text + more, file="mine.toml")
    return spec


by_reducer = {
    "mean": lambda values: values.mean(0),
    "median": lambda values: np.median(values, 0),
    "mode": lambda values: values[2],
    "min": lambda values: values.min(0),
    "max": lambda values: values.max(0),
    "sum": lambda values: values.sum(0),
    "std": lambda values: values.std(0),
    "count": lambda values: np.full(values.shape[1:], len(values)),
    "first": lambda values: values[0],
    "p00": lambda values: values.min(0),
    "p50": lambda values: np.median(values, 0),
}


@pytest.mark.parametrize("reducer", by_reducer)
def test_each_reducer_of_a_file_over_a_year(assets: KnownAssets, reducer: str) -> None:
    """Five images, two of them alike."""
    assets.s2.images.append(make_image("S2/i3again", 3, start=JUNE_1 + 20 * DAY))
    spec = declared(f'reducers = ["{reducer}"]')
    found = bands_of(assets, spec, (*images, "S2/i3again"))["B2"]
    expected = by_reducer[reducer](stack(numbers=(1, 2, 3, 4, 3)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_percentiles_of_a_file_are_in_order(assets: KnownAssets) -> None:
    names = [f"p{share:02d}" for share in (5, 25, 50, 75, 95)]
    found = bands_of(assets, declared(f"reducers = {names}".replace("'", '"')))
    assert list(found) == [f"B2_{name}" for name in names], "several reducers give a band each"
    values = np.array(list(found.values()))
    assert (np.diff(values, axis=0) >= 0).all()
    assert (values[-1] > values[0]).all()


def test_first_is_the_earliest_that_was_observed(assets: KnownAssets) -> None:
    spec = declared('reducers = ["first"]\nmasks = [{ band = "B2", at_least = 2000 }]')
    np.testing.assert_array_equal(bands_of(assets, spec)["B2"], known(2, 0, column, row))


def test_the_default_reducers_are_mean_and_for_classes_mode(assets: KnownAssets) -> None:
    np.testing.assert_allclose(bands_of(assets, declared())["B2"], stack().mean(0))
    table = 'values = "classes"\nclasses = [{ code = 1000, name = "a" }, { code = 5000, name = "b" }]'
    text = file.replace('"float32"', '"uint16"\nfill = 65535')
    (spec,) = parse_declarations(text + table, file="mine.toml")
    assert spec.program is not None
    assert spec.program.outputs[0].reducer == "mode"
    again = make_image("S2/i3again", 3, start=JUNE_1 + 20 * DAY)
    assets.s2.images.append(again)
    np.testing.assert_array_equal(
        bands_of(assets, spec, (*images, "S2/i3again"))["B2"], known(3, 0, column, row), "never a mean of codes"
    )


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        ("bits = [0, 1]", lambda values: values % 4 == 0),
        ("values = [1000, 1011]", lambda values: ~np.isin(values, (1000, 1011))),
        ("at_least = 1020, at_most = 1040", lambda values: (values >= 1020) & (values <= 1040)),
    ],
)
def test_masks_of_a_file(assets: KnownAssets, mask: str, kept: Any) -> None:
    spec = declared(f'masks = [{{ band = "B2", {mask} }}]')
    found = bands_of(assets, spec, images[:1])["B2"]
    np.testing.assert_array_equal(~np.isnan(found), kept(known(1, 0, column, row)))


@pytest.mark.parametrize("reducer", ["mean", "median", "p90", "max"])
def test_months_and_seasons_of_a_file(assets: KnownAssets, reducer: str) -> None:
    assets.s2.images.append(make_image("S2/march", 7, start=JUNE_1 - 80 * DAY))
    scenes = (*images, "S2/march")
    months = bands_of(assets, declared(f'reducers = ["{reducer}"]\nperiod = "months"'), scenes)
    seasons_text = file.replace('"year"', '"seasons"')
    seasons = bands_of(assets, declared(f'reducers = ["{reducer}"]\nperiod = "seasons"', seasons_text), scenes)
    assert (len(months), len(seasons)) == (12, 4)
    for found, march, june, none in ((months, "03", "06", "07"), (seasons, "MAM", "JJA", "SON")):
        np.testing.assert_allclose(found[f"{march}_B2_{reducer}"], known(7, 0, column, row))
        np.testing.assert_allclose(
            found[f"{june}_B2_{reducer}"], bands_of(assets, declared(f'reducers = ["{reducer}"]'))["B2"]
        )
        assert np.isnan(found[f"{none}_B2_{reducer}"]).all()


def test_a_hook_of_the_users_own_makes_what_a_file_cannot_say(
    assets: KnownAssets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ratio of two bands of the brightest image, written by a function in a module of the user's own."""
    (tmp_path / "my_recipes.py").write_text(
        "def ratio(ee, images):\n"
        "    brightest = images.qualityMosaic('B2')\n"
        "    return brightest.select('B3').divide(brightest.select('B2')).rename('ratio')\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = file.replace('bands = ["B2"]', 'bands = ["ratio"]') + 'hook = "my_recipes:ratio"\nscale = 0.5\n'
    (spec,) = parse_declarations(text, file="mine.toml")
    assert spec == spec_of(declaration_of(spec)), "kept with the data set by its name"
    raster = ee_in_process.pixels(Evaluator(assets), hook_image(ee, spec, images), grid)
    np.testing.assert_allclose(
        raster.bands["ratio"] * 0.5, known(4, 1, column, row) / known(4, 0, column, row), rtol=1e-6
    )
    for name, reason in (
        ("none:ratio", "No module named 'none'"),
        ("my_recipes:no", "no attribute"),
        ("my_recipes:number", "is no function"),
    ):
        (wrong,) = parse_declarations(text.replace("my_recipes:ratio", name), file="mine.toml")
        with pytest.raises(InputError, match=reason):
            load_hook(wrong)
