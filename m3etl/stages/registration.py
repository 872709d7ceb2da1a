"""How well the arrays of a store lie on each other: shifts against the optical array, measured over many chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.audit import Finding
from m3etl.compute.registration import Shift, cross_spectrum, detail_of, least_chips, measure_shift
from m3etl.errors import DamagedError
from m3etl.io.store import ChipStore
from m3etl.spec.hashing import stream
from m3etl.spec.modality import ArraySpec, Shape

cloud_arrays = ("sentinel2_cloud", "sentinel2_dates_cloud")
reference_arrays = ("sentinel2_l2a", "sentinel2_l1c", "sentinel2_seasons")
most_chips = 256
tolerated_px = 0.5
batch_chips = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One array against the reference; no shift where they have no chips with detail in common."""

    array: str
    shift: Shift | None

    @property
    def verdict(self) -> str:
        """in place, shifted, too few chips, or too little detail in common."""
        if self.shift is not None and self.shift.chips < least_chips:
            return "too few chips"
        if self.shift is None or not self.shift.is_measured:
            return "too little detail in common"
        certain = self.shift.distance_px - self.shift.spread_px
        return "shifted" if certain > tolerated_px else "in place"

    def as_row(self) -> dict[str, Any]:
        """A line of the report."""
        shift = self.shift if self.verdict in ("in place", "shifted") else None  # a peak of noise is no place
        return {
            "array": self.array,
            "right [px]": None if shift is None else shift.x_px,
            "down [px]": None if shift is None else shift.y_px,
            "spread [px]": None if shift is None else shift.spread_px,
            "sharpness": None if self.shift is None else self.shift.sharpness,
            "chips": 0 if self.shift is None else self.shift.chips,
            "verdict": self.verdict,
        }


def measure_registration(store: ChipStore, *, seed: int) -> list[Registration]:
    """Every raster array but the cloud mask against the optical arrays, in pixels of the optical grid.

    At most `most_chips` chips, drawn by `seed`, are read. Shards that can't be read are passed over: other checks name
    them.
    """
    rasters = [spec for spec in store.specs.values() if spec.shape is Shape.RASTER and spec.name not in cloud_arrays]
    optical = [spec for spec in rasters if spec.name in reference_arrays]
    others = [spec for spec in rasters if spec.name not in reference_arrays]
    if not optical or not others:
        return []
    rows = np.flatnonzero(store.chip_ids != "")
    if len(rows) > most_chips:
        rows = np.sort(stream(seed, "registration").choice(rows, most_chips, replace=False))
    spectra: dict[str, list[npt.NDArray[np.complex64]]] = {spec.name: [] for spec in others}
    side = optical[0].pixels(store.chip_m)
    for first in range(0, len(rows), batch_chips):
        batch = rows[first : first + batch_chips]
        references = _references(store, optical, batch, side)
        for spec in others:
            for reference, stored in zip(references, _read(store, spec, batch), strict=False):
                detail = None if reference is None else detail_of(spec, stored, side)
                if reference is not None and detail is not None:
                    spectra[spec.name].append(cross_spectrum(reference, detail))
    rng = stream(seed, "registration draws")
    return [
        Registration(array=name, shift=measure_shift(np.array(found), side=side, rng=rng))
        for name, found in spectra.items()
    ]


def find_shifted(measured: Sequence[Registration]) -> list[Finding]:
    """One finding for each array that is certainly off by more than half a pixel."""
    meaning = f"shifted against the optical array by more than {tolerated_px} px"
    return [
        Finding(
            check="registration",
            array=item.array,
            count=item.shift.chips,
            example=f"{item.shift.x_px:+.2f} px right, {item.shift.y_px:+.2f} px down",
            meaning=meaning,
        )
        for item in measured
        if item.verdict == "shifted" and item.shift is not None
    ]


def _references(
    store: ChipStore, optical: Sequence[ArraySpec], rows: npt.NDArray[np.int64], side: int
) -> list[npt.NDArray[np.float32] | None]:
    """Edges of the first optical array that has any, for each row."""
    found: list[npt.NDArray[np.float32] | None] = [None] * len(rows)
    for spec in optical:
        for index, stored in enumerate(_read(store, spec, rows)):
            if found[index] is None:
                found[index] = detail_of(spec, stored, side)
    return found


def _read(store: ChipStore, spec: ArraySpec, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    try:
        return store.read(spec.name, rows)
    except DamagedError:
        return np.empty((0,))
