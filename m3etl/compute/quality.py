"""What of a chip is observed and what of it is clear, from fill values, Cloud Score+ and the scene classification."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.spec.modality import ArraySpec, Shape, valid_of

clear_score = 60  # cs_cdf x 100; 0.60 is the threshold the Cloud Score+ catalogue page recommends
cloudy_classes = (3, 8, 9, 10)  # scene classification: shadow, cloud of medium and high probability, thin cirrus

Mask = npt.NDArray[np.bool_]


def find_cloud_array(specs: Iterable[ArraySpec]) -> ArraySpec | None:
    """The array that tells clouds (a raster with `cs_cdf` or `SCL`), None without one."""
    named = (spec for spec in specs if spec.shape is Shape.RASTER and {"cs_cdf", "SCL"} & set(spec.bands))
    return next(named, None)


def find_cloud_of_periods(spec: ArraySpec, specs: Iterable[ArraySpec]) -> ArraySpec | None:
    """The array that tells the clouds of the scenes of an array with periods, None without one."""
    return next(
        (
            other
            for other in specs
            if other.modality == spec.modality
            and other.periods == spec.periods
            and spec.periods
            and {"cs_cdf", "SCL"} & set(other.band_names)
        ),
        None,
    )


def clear_of(spec: ArraySpec, stored: npt.NDArray[Any]) -> Mask:
    """Pixels not known to be cloud or shadow: stored (..., band, y, x) of the cloud array to bool (..., y, x).

    A pixel is cloudy where cs_cdf is known and below 0.6 or SCL says shadow, cloud or cirrus; unknown counts as clear.
    """
    clear = np.ones(stored.shape[:-3] + stored.shape[-2:], dtype=np.bool_)
    if "cs_cdf" in spec.bands:
        score = stored[..., spec.bands.index("cs_cdf"), :, :]
        clear &= (score >= clear_score) | ~valid_of(spec, score)
    if "SCL" in spec.bands:
        clear &= ~np.isin(stored[..., spec.bands.index("SCL"), :, :], cloudy_classes)
    return clear


def known_of(spec: ArraySpec, stored: npt.NDArray[Any]) -> Mask:
    """Pixels about whose clouds anything is known: (..., band, y, x) to bool (..., y, x)."""
    telling = [position for position, band in enumerate(spec.bands) if band in ("cs_cdf", "SCL")]
    return np.asarray(valid_of(spec, stored[..., telling, :, :]).any(axis=-3))


def without_cloud(spec: ArraySpec, stored: npt.NDArray[Any], cloud: ArraySpec, of_cloud: npt.NDArray[Any]) -> None:
    """Turn the cloudy pixels of each period of one chip, stored (band, y, x), into fill, by the cloud array of the
    same periods.
    """
    own = replace(cloud, bands=cloud.band_names, periods=())
    clear = clear_of(own, of_cloud.reshape(cloud.with_periods(of_cloud.shape)))
    for part, kept in zip(stored.reshape(spec.with_periods(stored.shape)), clear, strict=True):
        part[:, ~fitted(kept, (stored.shape[-2], stored.shape[-1]))] = spec.fill_value()


def valid_fraction(spec: ArraySpec, stored: npt.NDArray[Any]) -> float:
    """Share of one chip that was observed: pixels where any band is (a pass has its polarisations), or numbers."""
    valid = valid_of(spec, stored)
    return float(valid.any(axis=-3).mean() if spec.shape is Shape.RASTER else valid.mean())


def cloud_fraction(spec: ArraySpec, stored: npt.NDArray[Any]) -> float | None:
    """Share of the known pixels of one chip's cloud array that are cloud or shadow; None where nothing is known."""
    known = known_of(spec, stored)
    if not known.any():
        return None
    return float((~clear_of(spec, stored))[known].mean())


def fitted(mask: Mask, shape: tuple[int, int]) -> Mask:
    """A mask (y, x) on another number of pixels over the same area: the value at each new pixel's centre."""
    if mask.shape == shape:
        return mask
    rows, columns = (((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in zip(shape, mask.shape, strict=True))
    return np.asarray(mask[np.ix_(rows, columns)])
