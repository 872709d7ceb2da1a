"""What of a chip a sample shows: bands by name; crops, flips and quarter turns, alike for all; upsampled layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.errors import InputError
from m3etl.spec.hashing import hashed_uniform
from m3etl.spec.modality import ArraySpec, Shape

Array = npt.NDArray[Any]
pixel_m = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """crop_px: side of the crop in 10 m pixels, from the middle or, with random_crop, from anywhere; flips: one of the
    eight flips and quarter turns at random; upsample: coarse rasters come on the 10 m grid; bands: by array name, the
    names of the bands or features to show, in this order (all of the arrays that are not named); periods: the same for
    the seasons, months or dates of arrays that have them.

    Draws depend on (seed, epoch, row) only, never on threads, workers or the order of reading.
    """

    crop_px: int | None = None
    random_crop: bool = False
    flips: bool = False
    upsample: bool = False
    bands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    periods: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.crop_px is not None and self.crop_px < 1:
            raise InputError(f"crop_px must be at least 1, found {self.crop_px}")
        if self.random_crop and self.crop_px is None:
            raise InputError("random_crop needs crop_px, the side of the crop in pixels")


class ViewPlan:
    """A view of the chips of one store. shown: the declarations with the bands and periods that are shown; shapes: of
    one sample, the bands of all periods in one axis; untouched: arrays whose decoded chips are shown as they are."""

    def __init__(self, view: View | None, specs: Mapping[str, ArraySpec], chip_m: float) -> None:
        self.view = view or View()
        self.specs = specs
        self.chip_m = chip_m
        self.chip_px = round(chip_m / pixel_m)
        self._check_crop()
        _check_names(self.view, specs)
        self.shown = {name: self._shown(spec) for name, spec in specs.items()}
        self._places = {
            name: [specs[name].bands.index(band) for band in spec.bands]
            for name, spec in self.shown.items()
            if spec.bands != specs[name].bands
        }
        self.shapes = {name: self._shape(spec) for name, spec in self.shown.items()}
        self.untouched = {name for name, spec in specs.items() if self._is_untouched(spec)}

    def draw(self, seed: int, epoch: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Placement of each row: (rows, 3) of y, x (pixels) and turn (0-7: quarter turns, plus 4 when mirrored)."""
        placements = np.zeros((rows.size, 3), dtype=np.int64)
        if self.view.crop_px is not None:
            span = self.chip_px - self.view.crop_px
            for axis, purpose in enumerate(("crop y", "crop x")):
                drawn = np.floor(hashed_uniform(seed, purpose, epoch, rows) * (span + 1))
                placements[:, axis] = drawn if self.view.random_crop else span // 2
        if self.view.flips:
            placements[:, 2] = np.floor(hashed_uniform(seed, "turn", epoch, rows) * 8)
        return placements

    def apply(self, array: str, stored: Array, placement: Sequence[int], target: Array) -> None:
        """Write the view of one chip, `stored` (chip_shape), into `target` (of `shapes[array]`)."""
        spec = self.specs[array]
        places = self._places.get(array)
        if places is not None:
            stored = stored[places]
        if spec.shape is Shape.VECTOR:
            target[...] = stored
            return
        top, left, turn = placement
        side = self.view.crop_px or self.chip_px
        if self._is_resampled(spec):
            from m3etl.compute.upsample import upsample_into

            finer = np.empty((stored.shape[0], side, side), dtype=stored.dtype)
            upsample_into(spec, np.ascontiguousarray(stored), finer, side=self.chip_px, corner=(top, left))
            stored = finer
        elif self.view.crop_px is not None:
            stored = stored[:, top : top + side, left : left + side]
        target[...] = turned(stored, turn)

    def _shown(self, spec: ArraySpec) -> ArraySpec:
        bands, periods = self.view.bands.get(spec.name), self.view.periods.get(spec.name)
        return spec if bands is None and periods is None else spec.selected(bands, periods)

    def _shape(self, spec: ArraySpec) -> tuple[int, ...]:
        shape = spec.chip_shape(self.chip_m)
        if spec.shape is Shape.VECTOR:
            return shape
        if self.view.crop_px is not None:
            return (shape[0], self.view.crop_px, self.view.crop_px)
        return (shape[0], self.chip_px, self.chip_px) if self._is_resampled(spec) else shape

    def _is_resampled(self, spec: ArraySpec) -> bool:
        return self.view.upsample and spec.pixels(self.chip_m) != self.chip_px

    def _is_untouched(self, spec: ArraySpec) -> bool:
        if spec.name in self._places:
            return False
        changed = self.view.crop_px is not None or self.view.flips
        return spec.shape is Shape.VECTOR or not (changed or self._is_resampled(spec))

    def _check_crop(self) -> None:
        if self.view.crop_px is None:
            return
        if self.view.crop_px > self.chip_px:
            raise InputError(f"a crop of {self.view.crop_px} pixels does not fit chips of {self.chip_px} pixels")
        rasters = [spec for spec in self.specs.values() if spec.shape is Shape.RASTER]
        coarse = [spec.name for spec in rasters if spec.pixels(self.chip_m) != self.chip_px]
        if coarse and not self.view.upsample:
            hint = "Ask for upsample as well, or leave these arrays out."
            raise InputError(f"crops are cut from 10 m pixels, which {', '.join(coarse)} do not have", hint=hint)


def turned(picture: Array, turn: int) -> Array:
    """(band, y, x) turned by `turn` % 4 quarters anticlockwise, then mirrored in x from 4 on."""
    rotated = np.rot90(picture, turn % 4, axes=(1, 2))
    return rotated[:, :, ::-1] if turn >= 4 else rotated


def _check_names(view: View, specs: Mapping[str, ArraySpec]) -> None:
    """InputError gathers the bands and periods that do not exist or are asked for twice."""
    problems = []
    for what, asked in (("band", view.bands), ("period", view.periods)):
        for name, wanted in asked.items():
            if name not in specs:
                problems.append(f"there is no array {name}; there are {', '.join(specs)}")
                continue
            known = specs[name].band_names if what == "band" else specs[name].periods
            unknown = [item for item in wanted if item not in known]
            if unknown:
                problems.append(f"{name} has no {what} {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
            if isinstance(wanted, str) or not wanted or len(set(wanted)) != len(wanted):
                problems.append(f"{what}s of {name} must be a list of different names, found {wanted!r}")
    if problems:
        raise InputError("the view shows what cannot be: " + "; ".join(problems))
