"""What the two published pipelines do to pixels, as read in their code, and the same pixels through our own recipes.

Casts wrap as they do on x86: through int64, then the low bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from m3etl.emulator.evaluate import Evaluator
from m3etl.spec.jobs import field_name
from m3etl.spec.modality import ArraySpec
from tests.fakes import ee_in_process
from tests.fakes.scenery import Function, Scene, Scenery, left, top

Numbers = npt.NDArray[np.float64]
side = 8  # pixels of the window that is looked at
gssic = "Earth_Big_Data/GLOBAL_SEASONAL_S1/V2019"


def wrapped(values: Any, dtype: str) -> npt.NDArray[Any]:
    """Floats cut and cast to an unsigned type."""
    return np.asarray(np.trunc(values)).astype(np.int64).astype(dtype)


def backscatter_as_byte(level_db: Numbers) -> npt.NDArray[np.uint8]:
    """geetiles since June 2024: [-30, 0] dB to a byte, without clipping; what is masked arrives as 0."""
    return wrapped((np.nan_to_num(level_db) + 30) / 30 * 255, "uint8")


def backscatter_as_short(levels_db: Numbers) -> npt.NDArray[np.int16]:
    """geetiles before, and the monthly layers still: the mean of decibels over images (N, ...), cut to whole decibels
    and wrapped; the loader reads the 16 bits as signed.
    """
    return wrapped(np.nanmean(levels_db, axis=0), "uint16").view(np.int16)


def land_cover_indices(codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """M3LEO's loader: the codes 10, 20 .. 100 become 0 .. 10, in an array that was zeros before."""
    known = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
    found = np.zeros(codes.shape, dtype=np.int64)
    for index, code in enumerate(known):
        found[codes == code] = index
    return found


def reflectance_as_byte(reflectance: Numbers) -> npt.NDArray[np.uint8]:
    """M3LEO's Sentinel-2: clipped at 0.3; what is missing is 0."""
    return wrapped(np.clip(np.nan_to_num(reflectance), 0, 0.3) / 0.3 * 255, "uint8")


def coherence_chip(layers: Mapping[str, Numbers]) -> dict[str, Numbers] | None:
    """sartiles: 12, 24, 36 and 48 days in four seasons; None, no chip at all, where one layer is missing."""
    wanted = [
        f"{season}_vv_COH{days}" for season in ("summer", "fall", "winter", "spring") for days in (12, 24, 36, 48)
    ]
    return {name: layers[name] for name in wanted} if all(name in layers for name in wanted) else None


def first_come(orbits: Sequence[Numbers]) -> Numbers:
    """sartiles: the angles of all orbits in one layer, each pixel from the first orbit that sees it."""
    merged = orbits[0]
    for other in orbits[1:]:
        merged = np.where(np.isnan(merged), other, merged)
    return merged


def chip_transform(west: float, north: float, pixel: float) -> Affine:
    """sartiles: scaled before it is moved, so that the corner is scaled as well."""
    return Affine.scale(pixel, -pixel) @ Affine.translation(west, north)


def stacked_patches(patches: Sequence[tuple[Numbers, Numbers]]) -> list[tuple[Numbers, Numbers]]:
    """sartiles: patches (coordinate, value) of several pairs are cut to the smallest, all under the first's
    coordinates.
    """
    shortest = min(len(place) for place, _ in patches)
    return [(patches[0][0][:shortest], values[:shortest]) for _, values in patches]


def ms(text: str) -> float:
    """UTC milliseconds of an ISO time."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000


def flat(value: float) -> Function:
    """The same value everywhere."""
    return lambda x, y: np.full(np.shape(x), float(value))


def by_column(*values: float) -> Function:
    """A value for each column of the window, repeated; NaN is masked."""
    return lambda x, y: np.asarray(values, float)[np.floor((x - left) / 10).astype(int) % len(values)]


@contextmanager
def served(scenes: Sequence[Scene], transport: ee_in_process.Transport) -> Iterator[Evaluator]:
    """The scenes as assets of the client of this process."""
    collections = tuple({scene.id.rpartition("/")[0] for scene in scenes})
    transport.evaluator = evaluator = Evaluator(Scenery(scenes, collections=collections))
    yield evaluator


def stored_by_us(
    evaluator: Evaluator, spec: ArraySpec, scene_ids: Sequence[str], *, pixel_m: float = 10.0
) -> dict[str, npt.NDArray[Any]]:
    """The array's bands over the window, (side, side) each, in stored units as an export would land them."""
    from m3etl.io.recipes import stored_image

    grid = ee_in_process.grid("EPSG:32632", (pixel_m, 0.0, left, 0.0, -pixel_m, top), side, side)
    raster = ee_in_process.pixels(evaluator, stored_image(spec, scene_ids), grid)
    found = {band: np.asarray(raster.bands[field_name(spec.name, band)]) for band in spec.bands}
    assert {values.dtype for values in found.values()} == {np.dtype(spec.dtype)}
    return found
