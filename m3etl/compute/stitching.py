"""Interferograms on a chip's own grid: warped component by component, and joined where a chip lies on two frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelGrid
from m3etl.compute.interferometry import reference_phase
from m3etl.compute.warp import Method, find_positions, resample

Array = npt.NDArray[Any]
least_overlap_pixels = 9  # that tie a component of one frame to one of the other; fewer say nothing against noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Interferogram:
    """One pair on one grid, float64 (y, x) each, NaN where unknown: phase in radians, coherence 0 to 1, amplitude, and
    the label of the connected component, known where the phase is.
    """

    phase: Array
    coherence: Array
    amplitude: Array
    component: Array


def warp_interferogram(pair: Interferogram, source: PixelGrid, target: PixelGrid) -> Interferogram:
    """The interferogram on `target`. Phases of different components are never averaged: each is warped alone, and shown
    where its label is the nearest one.
    """
    positions = find_positions(source, target)
    mean = Method.BILINEAR if positions.samples == (1, 1) else Method.AVERAGE

    def warped(values: Array, method: Method) -> Array:
        plane = np.ascontiguousarray(values[None], dtype=np.float32)
        found: Array = resample(plane, positions, source.window, method, fill=np.nan)
        return np.asarray(found[0], dtype=np.float64)

    nearest = warped(pair.component, Method.NEAREST)
    phase = np.full(nearest.shape, np.nan)
    for label in np.unique(nearest[np.isfinite(nearest)]):
        alone = warped(np.where(pair.component == label, pair.phase, np.nan), mean)
        phase = np.where(nearest == label, alone, phase)
    return Interferogram(
        phase=phase,
        coherence=warped(pair.coherence, mean),
        amplitude=warped(pair.amplitude, mean),
        component=np.where(np.isfinite(phase), nearest, np.nan),
    )


def stitch_interferograms(parts: Sequence[Interferogram]) -> Interferogram:
    """Frames of one pair as one: earlier ones count, later ones fill what is left.

    A component of a later frame is shifted by the median difference over its overlap with an earlier component, and
    takes that one's label; without an overlap it stays a component of its own. At the end every component is less the
    median of its coherent pixels.
    """
    whole = parts[0]
    for part in parts[1:]:
        phase, component = _tied(whole, part)
        whole = Interferogram(
            phase=_filled(whole.phase, phase),
            coherence=_filled(whole.coherence, part.coherence),
            amplitude=_filled(whole.amplitude, part.amplitude),
            component=_filled(whole.component, component),
        )
    return Interferogram(
        phase=reference_phase(whole.phase, whole.component, np.nan_to_num(whole.coherence)),
        coherence=whole.coherence,
        amplitude=whole.amplitude,
        component=whole.component,
    )


def _tied(whole: Interferogram, part: Interferogram) -> tuple[Array, Array]:
    """Phase and labels of a further frame, as they continue those of the whole."""
    phase, component = part.phase.copy(), np.full(part.component.shape, np.nan)
    free = np.nanmax(whole.component, initial=0.0) + 1
    for label in np.unique(part.component[np.isfinite(part.component)]):
        members = part.component == label
        labels, counts = np.unique(whole.component[members & np.isfinite(whole.component)], return_counts=True)
        if counts.max(initial=0) >= least_overlap_pixels:
            anchor = labels[counts.argmax()]
            both = members & (whole.component == anchor)
            phase[members] += np.median(whole.phase[both] - part.phase[both])
            component[members] = anchor
        else:
            component[members] = free
            free += 1
    return phase, component


def _filled(values: Array, further: Array) -> Array:
    return np.where(np.isfinite(values), values, further)
