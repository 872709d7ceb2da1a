"""Sub-pixel shifts between co-located arrays, by phase correlation of their gradients.

Edges of the same fields, coasts and roads show in optical, radar and class layers alike, though their values have
little to do with each other. One chip rarely has enough of them; the phases of the cross-power spectra of many chips
add up to one sharp peak (Foroosh, Zerubia and Berthod 2002, doi:10.1109/83.988953, for the phase of a sub-pixel shift;
Guizar-Sicairos, Thurman and Fienup 2008, doi:10.1364/OL.33.000156, for the refinement by a small matrix transform).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.upsample import upsample_into
from m3etl.spec.modality import ArraySpec, Values, physical_of, valid_of

Spectra = npt.NDArray[np.complex64]

search_px = 4.0  # shifts beyond this are not looked for: chips come from one grid
refine_step_px = 0.05
bandwidth = 0.18  # cycles per pixel: finer detail is mostly noise that both sensors have for themselves
least_chips = 50  # fewer edges than radar and optics need to agree on one place
least_observed = 0.5  # share of a chip
bootstrap_draws = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Shift of an array against the reference, in pixels of the common grid.

    x, y: right and down, median over bootstrap draws of chips; spread_px: 90 % of the draws lie within it; sharpness:
    height of the peak over the surrounding correlation in its standard deviations; chips: how many had detail in both.
    """

    x_px: float
    y_px: float
    spread_px: float
    sharpness: float
    chips: int

    @property
    def distance_px(self) -> float:
        return float(np.hypot(self.x_px, self.y_px))

    @property
    def is_measured(self) -> bool:
        """Whether there is one clear peak; without it the arrays share too little detail to tell."""
        return self.chips >= least_chips and self.sharpness >= 6.0 and self.spread_px <= 0.5


def detail_of(spec: ArraySpec, stored: npt.NDArray[Any], side: int) -> npt.NDArray[np.float32] | None:
    """Edges of one stored chip (band, n, n) on a grid of `side` x `side` pixels; None where there are hardly any.

    Bands that are observed over most of the chip are averaged, reflectances as logarithms; a coarse layer is brought
    to the finer grid first.
    """
    if stored.shape[-1] != side:
        finer = np.empty((len(stored), side, side), dtype=stored.dtype)
        upsample_into(spec, np.ascontiguousarray(stored), finer)
        stored = finer
    valid = valid_of(spec, stored)
    if spec.values is Values.CLASSES:
        return class_edges(stored[0], valid[0])
    used = valid.mean(axis=(1, 2)) >= least_observed
    if not used.any():
        return None
    physical = np.nan_to_num(physical_of(spec, stored[used]))
    if spec.name.startswith("sentinel2_l"):
        physical = np.log(np.maximum(physical, 1e-4))
    return gradient_of(physical.mean(axis=0), valid[used].all(axis=0))


def gradient_of(image: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32] | None:
    """Gradient magnitude of an image (H, W), ranked to [-1, 1], 0 where unknown; None where there is no detail."""
    known = valid & np.isfinite(image)
    if known.mean() < least_observed:
        return None
    filled = np.where(known, image, np.median(image[known])).astype(np.float32)
    down, right = np.gradient(filled)
    inside = known.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inside &= np.roll(known, step, axis=axis)
    return _ranked(np.hypot(down, right), inside)


def class_edges(codes: npt.NDArray[np.integer], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32] | None:
    """Where neighbouring pixels are of different classes, (H, W), centred; None where there is one class only."""
    if valid.mean() < least_observed:
        return None
    edges = np.zeros(codes.shape, dtype=np.float32)
    for axis in (0, 1):
        for step in (-1, 1):
            neighbour = np.roll(codes, step, axis=axis)
            edges += (codes != neighbour) & valid & np.roll(valid, step, axis=axis)
    edges[0] = edges[-1] = 0
    edges[:, 0] = edges[:, -1] = 0
    if edges.std() < 0.05:
        return None
    centred = edges - edges[valid].mean()
    return np.where(valid, centred, 0).astype(np.float32)


def _ranked(values: npt.NDArray[np.floating], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32] | None:
    # Ranks tame the few giants (ships, roofs in radar) that would otherwise be all the correlation there is.
    inside = values[known]
    if not inside.size or float(inside.std()) < 1e-6:
        return None
    order = np.empty(inside.size, dtype=np.float32)
    order[np.argsort(inside, kind="stable")] = np.linspace(-1, 1, inside.size, dtype=np.float32)
    ranked = np.zeros(values.shape, dtype=np.float32)
    ranked[known] = order
    return ranked


def cross_spectrum(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> Spectra:
    """Phases of the cross-power spectrum of two gradient images of one shape, (H, W // 2 + 1), each of modulus <= 1."""
    height, width = reference.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    product = np.fft.rfft2(other * window) * np.conj(np.fft.rfft2(reference * window))
    modulus = np.abs(product)
    return np.asarray(product / (modulus + 1e-6 * modulus.max() + 1e-20), dtype=np.complex64)


def measure_shift(spectra: npt.NDArray[np.complex64], *, side: int, rng: np.random.Generator) -> Shift | None:
    """The shift that the spectra of many chips, (chip, H, W // 2 + 1) of images `side` pixels wide, agree on.

    rng draws the chips of the bootstrap. None without any chip.
    """
    count = len(spectra)
    if count == 0:
        return None
    low_pass = _low_pass(spectra.shape[1], side)
    draws = [_peak(spectra[rng.integers(0, count, count)].sum(axis=0) * low_pass, side) for _ in range(bootstrap_draws)]
    places = np.array(draws)
    middle = np.median(places, axis=0)
    away = np.hypot(*(places - middle).T)
    return Shift(
        x_px=round(float(middle[1]), 3),
        y_px=round(float(middle[0]), 3),
        spread_px=round(float(np.quantile(away, 0.9)), 3),
        sharpness=round(_sharpness(spectra.sum(axis=0) * low_pass, side), 2),
        chips=count,
    )


def _low_pass(height: int, width: int) -> npt.NDArray[np.float32]:
    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    return np.exp(-(down**2 + right**2) / (2 * bandwidth**2)).astype(np.float32)


def _surface(spectrum: npt.NDArray[np.complexfloating], side: int) -> npt.NDArray[np.float64]:
    return np.fft.fftshift(np.fft.irfft2(spectrum, s=(spectrum.shape[0], side)))


def _peak(spectrum: npt.NDArray[np.complexfloating], side: int) -> tuple[float, float]:
    """(down, right) of the highest correlation within the search radius, to `refine_step_px`."""
    surface = _surface(spectrum, side)
    middle = np.array(surface.shape) // 2
    reach = int(search_px)
    near = surface[middle[0] - reach : middle[0] + reach + 1, middle[1] - reach : middle[1] + reach + 1]
    down, right = np.unravel_index(int(near.argmax()), near.shape)
    offsets = np.arange(-1.0, 1.0 + refine_step_px / 2, refine_step_px)
    rows, columns = down - reach + offsets, right - reach + offsets
    fine = _evaluate(spectrum, rows, columns, side)
    best_row, best_column = np.unravel_index(int(fine.argmax()), fine.shape)
    return float(rows[best_row]), float(columns[best_column])


def _evaluate(
    spectrum: npt.NDArray[np.complexfloating],
    rows: npt.NDArray[np.float64],
    columns: npt.NDArray[np.float64],
    side: int,
) -> npt.NDArray[np.float64]:
    """The inverse transform at fractional places, as two small matrix products."""
    height = spectrum.shape[0]
    down = np.exp(2j * np.pi * np.outer(rows, np.fft.fftfreq(height)))
    weights = np.where(np.arange(spectrum.shape[1]) == 0, 1.0, 2.0)  # the half that a real transform leaves out
    right = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(side), columns)) * weights[:, None]
    return np.asarray((down @ spectrum @ right).real)


def _sharpness(spectrum: npt.NDArray[np.complexfloating], side: int) -> float:
    surface = _surface(spectrum, side)
    middle = np.array(surface.shape) // 2
    reach = int(search_px)
    distance = np.maximum(*np.abs(np.indices(surface.shape) - middle[:, None, None]))
    around = surface[distance > 2 * reach]
    peak = surface[distance <= reach].max()
    return float((peak - around.mean()) / around.std()) if around.size and around.std() > 0 else 0.0
