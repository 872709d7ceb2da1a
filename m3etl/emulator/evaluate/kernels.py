"""Kernels: weights around a pixel, in pixels or in metres."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.values import KernelValue, MetricKernel
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

Weights = npt.NDArray[np.float64]
Kernel = KernelValue | MetricKernel


def _offsets(radius: float, radius_y: float | None = None) -> tuple[Weights, Weights]:
    x, y = math.floor(radius), math.floor(radius if radius_y is None else radius_y)
    dx, dy = np.meshgrid(np.arange(-x, x + 1.0), np.arange(-y, y + 1.0))
    return dx, dy


def _circle(radius: float) -> Weights:
    dx, dy = _offsets(radius)
    return (np.hypot(dx, dy) <= radius).astype(float)


def _square(radius: float) -> Weights:
    return np.ones_like(_offsets(radius)[0])


def _diamond(radius: float) -> Weights:
    dx, dy = _offsets(radius)
    return np.asarray(np.abs(dx) + np.abs(dy) <= radius, dtype=np.float64)


def _plus(radius: float) -> Weights:
    dx, dy = _offsets(radius)
    return np.asarray((dx == 0) | (dy == 0), dtype=np.float64)


def _cross(radius: float) -> Weights:
    dx, dy = _offsets(radius)
    return np.asarray(np.abs(dx) == np.abs(dy), dtype=np.float64)


def _octagon(radius: float) -> Weights:
    dx, dy = _offsets(radius)
    return (np.abs(dx) + np.abs(dy) <= math.floor(radius) * 1.5 + 0.5).astype(float)


SHAPES: dict[str, Callable[[float], Weights]] = {
    "circle": _circle,
    "square": _square,
    "diamond": _diamond,
    "plus": _plus,
    "cross": _cross,
    "octagon": _octagon,
}
DISTANCES: dict[str, Callable[[Weights, Weights], Weights]] = {
    "euclidean": np.hypot,
    "manhattan": lambda dx, dy: np.abs(dx) + np.abs(dy),
    "chebyshev": lambda dx, dy: np.maximum(np.abs(dx), np.abs(dy)),
}


def _centred(weights: Weights, normalize: bool, magnitude: float) -> KernelValue:
    total = weights.sum()
    scaled = weights * (magnitude / total if normalize and total != 0 else magnitude)
    return KernelValue(weights=scaled, x=weights.shape[1] // 2, y=weights.shape[0] // 2)


def _in_units(units: str, make: Callable[[float], KernelValue]) -> Kernel:
    """A kernel of pixels, or one that is made for each grid; `make` gets pixels per unit."""
    if units == "pixels":
        return make(1.0)
    if units in ("meters", "metres"):
        return MetricKernel(make=make)
    raise invalid(f"Kernel: Unknown units '{units}'; one of pixels, meters.")


def make_kernel(shape: str, radius: float, units: str, normalize: bool = False, magnitude: float = 1.0) -> Kernel:
    """A kernel of a named shape."""
    if shape not in SHAPES:
        raise invalid(f"Kernel: Unknown kernel type '{shape}'; one of {', '.join(SHAPES)}.")
    return _in_units(units, lambda factor: _centred(SHAPES[shape](radius * factor), normalize, magnitude))


def _register_shape(shape: str) -> None:
    @algorithm(f"Kernel.{shape}")
    def kernel(context: Context, radius: float, units: str, normalize: bool, magnitude: float) -> Kernel:
        return make_kernel(shape, radius, units, normalize, magnitude)


def _register_distance(metric: str) -> None:
    @algorithm(f"Kernel.{metric}")
    def kernel(context: Context, radius: float, units: str, normalize: bool, magnitude: float) -> Kernel:
        def make(factor: float) -> KernelValue:
            dx, dy = _offsets(radius * factor)
            distance = DISTANCES[metric](dx, dy)
            return _centred(np.where(distance <= radius * factor, distance, 0.0), normalize, magnitude)

        return _in_units(units, make)


for _name in SHAPES:
    _register_shape(_name)
for _name in DISTANCES:
    _register_distance(_name)


@algorithm("Kernel.rectangle")
def rectangle(
    context: Context, x_radius: float, y_radius: float, units: str, normalize: bool, magnitude: float
) -> Kernel:
    def make(factor: float) -> KernelValue:
        return _centred(np.ones_like(_offsets(x_radius * factor, y_radius * factor)[0]), normalize, magnitude)

    return _in_units(units, make)


@algorithm("Kernel.gaussian")
def gaussian(context: Context, radius: float, sigma: float, units: str, normalize: bool, magnitude: float) -> Kernel:
    def make(factor: float) -> KernelValue:
        dx, dy = _offsets(radius * factor)
        return _centred(np.exp(-(dx**2 + dy**2) / (2 * (sigma * factor) ** 2)), normalize, magnitude)

    return _in_units(units, make)


@algorithm("Kernel.fixed")
def fixed(
    context: Context, width: int, height: int, weights: list[list[Any]], x: int, y: int, normalize: bool
) -> KernelValue:
    array = np.array(weights, dtype=np.float64)
    if array.ndim != 2 or (width > 0 and array.shape[1] != width) or (height > 0 and array.shape[0] != height):
        raise invalid(f"Kernel.fixed: The weights have shape {array.shape}, expected ({height}, {width}).")
    total = array.sum()
    if normalize and total != 0:
        array = array / total
    return KernelValue(weights=array, x=array.shape[1] // 2 if x < 0 else x, y=array.shape[0] // 2 if y < 0 else y)
