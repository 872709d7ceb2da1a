"""A user's TOML file with one thing wrong at a time: the line of the key and the reason, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3etl.errors import InputError
from m3etl.spec.declarations import parse_declarations

examples = Path(__file__).parents[3] / "docs" / "examples"
classes, radar, palsar = (
    (examples / f"{name}.toml").read_text() for name in ("esri_land_cover", "opera_rtc", "palsar2")
)


def check(text: str, old: str, new: str, line: int, reason: str) -> None:
    assert old in text
    with pytest.raises(InputError) as caught:
        parse_declarations(text.replace(old, new, 1), file="mine.toml")
    first = caught.value.message.splitlines()[0]
    assert first.startswith(f"mine.toml:{line}: "), first
    assert reason in first


@pytest.mark.parametrize(
    ("new", "line", "reason"),
    [
        ("fill = 9", 10, "fill 9 is also the code of a class"),
        ("fill = 2.5", 10, "fill must be a whole number, found 2.5"),
        ("fill = nan", 10, "fill must be a finite number"),
        ("fill = inf", 10, "fill must be a finite number"),
        ("fill = -1", 10, "fill -1 does not fit uint8"),
        ("fill = 4000", 10, "fill 4000 does not fit uint8"),
        ("fill = true", 10, "fill must be a number, found True"),
        ("", 9, "an integer array (uint8) needs a fill value"),
    ],
)
def test_a_fill_that_cannot_be(new: str, line: int, reason: str) -> None:
    check(classes, "fill = 255", new, line, reason)


@pytest.mark.parametrize(
    ("new", "line", "reason"),
    [
        ('dtype = "byte"', 9, "dtype must be one of uint8"),
        ('dtype = "float64"', 9, "dtype must be one of uint8"),
        ("dtype = 8", 9, "dtype must be text, found 8"),
        ('dtype = "int8"', 10, "fill 255 does not fit int8"),
        ('dtype = "float32"', 10, "a float array (float32) uses NaN, not fill 255"),
    ],
)
def test_a_dtype_that_cannot_be(new: str, line: int, reason: str) -> None:
    check(classes, 'dtype = "uint8"', new, line, reason)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("bands = { label = 1 }", "bands must be a list of band names"),
        ('bands = "b1"', "bands must be a list of band names"),
        ('bands = [""]', "bands must be a list of band names"),
        ("bands = []", "bands must be a list of band names"),
        ('bands = ["a", "a"]', "bands must be unique"),
        ('bands = ["b 1"]', "a stored band is named by letters, digits, _ . and -, found 'b 1'"),
    ],
)
def test_bands_that_cannot_be(new: str, reason: str) -> None:
    check(classes, 'bands = { label = "b1" }', new, 6, reason)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("code = 1, name", 'code = "1", name', "a class has a whole number as code and a name"),
        ("code = 1, name", "code = 2, name", "two classes have the same code"),
        ("code = 1, name", "code = 300, name", "uint8 cannot hold [2.0, 300.0]"),
        ("code = 1, name", "code = -4, name", "uint8 cannot hold [-4.0, 11.0]"),
        ('"#1a5bab"', '"blue"', "a color is #rrggbb, found 'blue'"),
        ('"#1a5bab"', "3", "a color is #rrggbb, found 3"),
    ],
)
def test_a_class_table_that_cannot_be(old: str, new: str, reason: str) -> None:
    check(classes, old, new, 14, reason)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('reducers = ["mean"]', "classes can't be reduced by 'mean'; use one of mosaic, first, mode, min, max"),
        ("scale = 0.1", "classes are stored as their codes: scale must be 1, found 0.1"),
        ('resampling = "bilinear"', "classes are stored as their codes: resampling must be 'nearest'"),
        ('kind = "image"', "a single image has no filters and no window in time"),
        ('period = "seasons"', "the period 'seasons' needs window = 'seasons'"),
        ("max_gap_days = -1", "max_gap_days must be positive"),
        ("scale = nan", "scale must be a finite number"),
        ('transform = "log"', "transform must be one of z-score"),
        ('hook = "mine"', "hook must be 'module:function', found 'mine'"),
    ],
)
def test_a_line_that_contradicts_the_rest(more: str, reason: str) -> None:
    check(classes, 'window = "year"', f'window = "year"\n{more}', 9, reason)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("values = 3", "the values of a mask must be a list of numbers, found 3"),
        ('values = ["a"]', "the values of a mask must be a list of numbers, found ['a']"),
        ("bits = 3", "bits must be a list of whole numbers, found 3"),
        ('bits = ["x"]', "bits must be a list of whole numbers, found ['x']"),
        ("bits = [40]", "bits must be between 0 and 31, found [40]"),
        ('at_least = "a"', "at_least must be a number, found 'a'"),
        ("limit = 3", "masks: unknown key limit"),
    ],
)
def test_a_mask_that_cannot_be(new: str, reason: str) -> None:
    check(radar, "values = [1, 2, 3]", new, 9, reason)


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ('[{ property = "x", equals = {} }]', "equals compares with a text or a number, found {}"),
        ("[{ property = 3, equals = 1 }]", "a filter has a property and one comparison"),
        ('[{ property = "x", one_of = 3 }]', "one_of compares with a list of texts or numbers, found 3"),
        ('[{ property = "x", at_least = [1] }]', "at_least compares with a text or a number, found [1]"),
        ('[{ property = "x", equals = 2020-01-01 }]', "equals compares with a text or a number"),
        ('[{ property = "x", at_least = 1, at_most = 3 }]', "a filter has a property and one comparison"),
        ('"IW"', "filters must be a list of tables"),
    ],
)
def test_a_filter_that_cannot_be(filters: str, reason: str) -> None:
    check(radar, "masks =", f"filters = {filters}\nmasks =", 9, reason)


@pytest.mark.parametrize(
    ("reducers", "reason"),
    [
        ("[]", "reducers must be a list of names"),
        ('"mean"', "reducers must be a list of names"),
        ('["p100"]', "unknown reducer 'p100' (known: mosaic, first, mean"),
        ('["mean", "mean"]', "reducers must be unique"),
    ],
)
def test_reducers_that_cannot_be(reducers: str, reason: str) -> None:
    check(radar, "masks =", f"reducers = {reducers}\nmasks =", 9, reason)


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("native_gsd_m = 25", "native_gsd_m = 0", 14, "native_gsd_m must be positive, found 0"),
        ("native_gsd_m = 25", "native_gsd_m = nan", 14, "native_gsd_m must be a finite number"),
        ("no_data = [0]", "no_data = 0", 9, "no_data must be a list of numbers, found 0"),
        ("no_data = [0]", 'no_data = ["a"]', 9, "no_data must be a list of numbers, found ['a']"),
        ("no_data = [0]", "source_scale = 0", 9, "source_scale must not be 0"),
        ("valid_min = 1\n", "valid_min = 70000\n", 12, "valid_min 70000 must be below valid_max 65534"),
        ("valid_max = 65534", "valid_max = 65535", 11, "fill 65535 is a valid value of [1.0, 65535.0]"),
        ("valid_max = 65534", "valid_max = 70000", 13, "uint16 cannot hold [1.0, 70000.0]"),
        ('name = "palsar2"', 'name = "worldcover"', 3, "the name 'worldcover' is declared already: ESA WorldCover"),
        ('name = "palsar2"', 'name = "palsar2"\nmodality = "Bad Name"', 4, "the modality 'Bad Name' must be lower"),
        ('reducers = ["mean"]', 'reducers = ["mosaic"]', 8, "many images of a year need a reducer"),
        ("[[array]]", "[array]", 2, "'array' is no list of tables"),
        ('asset = "JAXA/ALOS/PALSAR/YEARLY/SAR_EPOCH"', 'asset = " "', 5, "asset must be text, found ' '"),
    ],
)
def test_a_number_or_name_that_cannot_be(old: str, new: str, line: int, reason: str) -> None:
    check(palsar, old, new, line, reason)


def test_several_contradictions_of_one_array_are_told_at_their_lines() -> None:
    text = classes.replace("fill = 255", "fill = 9").replace('window = "year"', 'window = "year"\nkind = "image"')
    with pytest.raises(InputError) as caught:
        parse_declarations(text, file="mine.toml")
    assert [line.split(":")[1] for line in caught.value.message.splitlines()] == ["11", "9"]


def test_what_a_hook_does_itself_is_not_declared_too() -> None:
    hook = palsar.replace('reducers = ["mean"]', 'hook = "mine:ratio"')
    check(hook, "no_data = [0]", "no_data = [0]", 9, "no_data is not used with a hook")
    (spec,) = parse_declarations(hook.replace("no_data = [0]\n", ""), file="mine.toml")
    assert spec.recipe == "hook:mine:ratio"
    assert spec.bands == ("HH", "HV")
