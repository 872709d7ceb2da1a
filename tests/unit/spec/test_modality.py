"""Declarations: what cannot be declared, sizes, validity, physical values, digests."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.spec.catalog import arrays
from m3etl.spec.modality import ArraySpec, ClassCode, Shape, Temporal, Values, physical_of, valid_of
from m3etl.spec.program import Output, Program

base = {
    "name": "sample",
    "modality": "sample",
    "title": "A sample",
    "shape": Shape.RASTER,
    "values": Values.CONTINUOUS,
    "bands": ("a", "b"),
    "dtype": "int16",
    "fill": -32768,
    "units": "m",
    "source": ("X/Y",),
    "recipe": "sample",
    "temporal": Temporal.STATIC,
    "license": "own",
    "valid_min": 0.0,
    "valid_max": 100.0,
    "native_gsd_m": 30.0,
}


def declare(**changes) -> ArraySpec:
    return ArraySpec(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fill": None}, "needs a fill value"),
        ({"fill": -40000}, "does not fit int16"),
        ({"dtype": "uint8", "fill": -1}, "does not fit uint8"),
        ({"fill": 50}, "is a valid value"),
        ({"fill": 50, "scale": 0.01, "valid_max": 0.6}, "is a valid value"),
        ({"dtype": "float32", "fill": 0}, "uses NaN"),
        ({"bands": ("a", "a")}, "unique"),
        ({"bands": ()}, "at least one"),
        ({"native_gsd_m": 0.0}, "native_gsd_m"),
        ({"values": Values.CLASSES}, "code table"),
        ({"values": Values.CLASSES, "classes": (ClassCode(code=-32768, name="x"),)}, "also the code of a class"),
        (
            {"values": Values.CLASSES, "classes": (ClassCode(code=1, name="x"), ClassCode(code=1, name="y"))},
            "two classes have the same code",
        ),
        ({"scale": 0.0}, "scale must be positive"),
    ],
)
def test_wrong_declarations_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        declare(**changes)


def test_all_problems_are_named_at_once():
    with pytest.raises(InputError) as caught:
        declare(fill=None, native_gsd_m=0.0, bands=())
    assert all(words in caught.value.message for words in ("fill value", "native_gsd_m", "at least one", "'sample'"))


@pytest.mark.parametrize(("chip_m", "pixels"), [(1280.0, 43), (640.0, 21), (10.0, 1), (30.0, 1), (3000.0, 100)])
def test_a_coarse_layer_is_stored_coarse(chip_m, pixels):
    assert declare().pixels(chip_m) == pixels
    assert declare().chip_shape(chip_m) == (2, pixels, pixels)


def test_a_vector_has_no_pixels():
    spec = declare(shape=Shape.VECTOR)
    assert spec.chip_shape(1280.0) == (2,)
    with pytest.raises(ValueError, match="vector"):
        spec.pixels(1280.0)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.sampled_from([0.01, 0.5, 1.0]))
def test_physical_values_follow_scale_and_offset_and_fill_is_nan(numbers, scale):
    spec = declare(scale=scale, offset=-3.0, valid_min=-3.0, valid_max=100 * scale - 3.0)
    stored = np.array([*numbers, spec.fill], dtype=spec.dtype)
    physical = physical_of(spec, stored)
    assert np.isnan(physical[-1])
    np.testing.assert_allclose(physical[:-1], np.array(numbers) * scale - 3.0)
    assert valid_of(spec, stored).tolist() == [True] * len(numbers) + [False]


def test_floats_are_missing_where_nan():
    spec = declare(dtype="float32", fill=None)
    stored = np.array([0.0, np.nan, 1.0], dtype=np.float32)
    assert valid_of(spec, stored).tolist() == [True, False, True]
    assert np.isnan(spec.fill_value())


def test_zero_is_an_observation_in_every_array():
    for spec in arrays.values():
        zero = np.zeros(1, dtype=spec.dtype)
        assert valid_of(spec, zero).all(), f"{spec.name} takes zero for missing"


@pytest.mark.parametrize("field", [item.name for item in dataclasses.fields(ArraySpec)])
def test_every_field_changes_the_digest(field):
    spec = arrays["worldcover"]
    changed = {
        "shape": Shape.VECTOR,
        "values": Values.CONTINUOUS,
        "bands": ("Other",),
        "dtype": "uint16",
        "fill": 254,
        "source": ("another",),
        "temporal": Temporal.YEAR,
        "scale": 2.0,
        "offset": 1.0,
        "valid_min": 9.0,
        "valid_max": 99.0,
        "native_gsd_m": 20.0,
        "classes": spec.classes[:-1],
        "class_limit": 7,
        "max_gap_days": 3.0,
        "target": False,
    }.get(field, "another")
    changes = {field: changed}
    program = Program(outputs=(Output(name="Map", band="Map"),))
    if field == "program":
        changes = {"recipe": "program", "program": program}
    if field == "periods":
        spec = dataclasses.replace(spec, bands=("2020_Map", "2021_Map"))
        changes = {"periods": ("2020", "2021")}
    other = dataclasses.replace(spec, **changes)
    assert other.digest() != spec.digest()
    if field == "program":
        scaled = dataclasses.replace(program, source_scale=2.0)
        assert dataclasses.replace(other, program=scaled).digest() != other.digest()


def test_the_digest_is_the_same_in_another_process():
    # A fixed value: it is written into campaigns, so it must not depend on the process, its hash seed or its platform.
    assert declare().digest() == declare().digest()
    assert len(declare().digest()) == 64
