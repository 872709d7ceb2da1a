"""What a program can't be is said in full; what it reads follows from its bands."""

from __future__ import annotations

import pytest

from m3etl.spec.program import Filter, Mask, Output, Program, Window, monthly, seasonal


def of(**changes) -> Program:
    return Program(**{"outputs": (Output(name="a", band="A"),), **changes})


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (of(outputs=()), "at least one band"),
        (of(outputs=(Output(name="a", band="A", reducer="average"),)), "unknown reducer 'average'"),
        (of(outputs=(Output(name="a", band="A", reducer="p100"),)), "unknown reducer 'p100'"),
        (of(outputs=(Output(name="a", band="A", reducer="mean", period="winter"),)), "unknown period 'winter'"),
        (of(outputs=seasonal(("A",), ("mean",)), window=Window.YEAR), "needs the window 'seasons'"),
        (of(outputs=monthly(("A",), ("mean",)), window=Window.SEASONS), "needs the window 'year'"),
        (of(window=Window.YEAR), "need a reducer"),
        (of(is_collection=False, window=Window.NEAREST), "no filters and no window"),
        (of(is_collection=False, filters=(Filter(property="p", comparison="equals", value=1),)), "no filters"),
        (of(source_scale=0.0), "source_scale"),
        (of(masks=(Mask(band="A"),)), "neither bits, values nor limits"),
        (of(masks=(Mask(band="A", bits=(40,)),)), "bits outside"),
    ],
)
def test_problems(program: Program, problem: str) -> None:
    assert any(problem in text for text in program.problems())


def test_a_sound_program_has_no_problem() -> None:
    outputs = (*seasonal(("VV", "VH"), ("mean", "median", "std", "count", "p05")),)
    program = of(outputs=outputs, window=Window.SEASONS, masks=(Mask(band="QA", bits=(10, 11)),))
    assert list(program.problems()) == []
    assert program.bands == ("VV", "VH")
    assert outputs[0].name == "DJF_VV_mean"
    assert outputs[4].percentile == 5
    assert len(outputs) == 4 * 2 * 5
