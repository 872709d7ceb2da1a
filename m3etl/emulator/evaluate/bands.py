"""Lazy bands: what each band needs to compute itself on a grid, and how it does so.

A band names its inputs for a grid, (band, grid) pairs, and turns their pixels into its own. `reader.Reader` walks that
dependency graph, so bands never call each other and the depth of an expression does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from m3etl.emulator.evaluate import pixel_types, projections
from m3etl.emulator.evaluate.projections import BoolArray
from m3etl.emulator.evaluate.values import GeometryValue, union_footprint
from m3etl.emulator.model import Grid, PixelType, Projection, SourceImage

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.reader import Reader

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Values (height, width) in the band's dtype and where they are valid."""

    values: Array
    valid: BoolArray


Need = tuple["Band", Grid]


class Band:
    """One band of a lazy image: pixel type, default projection, footprint (None: unbounded), inputs and arithmetic."""

    __slots__ = ("_footprint", "pixel_type", "projection")
    is_leaf: ClassVar[bool] = False

    def __init__(self, pixel_type: PixelType, projection: Projection, footprint: GeometryValue | None = None) -> None:
        self.pixel_type = pixel_type
        self.projection = projection
        self._footprint = footprint

    @property
    def footprint(self) -> GeometryValue | None:
        return self._footprint

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        """The (band, grid) pairs whose pixels `compute` wants, in order."""
        return ()

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Any]) -> Any:
        """The band's pixels on a grid; an intermediate node may give anything its consumers understand."""
        raise NotImplementedError(type(self).__name__)


class SourceBand(Band):
    """A band of a source image, sampled at the nearest native pixel. The reader samples bands of one projection
    together.
    """

    __slots__ = ("dimensions", "image", "name")
    is_leaf: ClassVar[bool] = True

    def __init__(
        self,
        image: SourceImage,
        name: str,
        pixel_type: PixelType,
        projection: Projection,
        footprint: GeometryValue | None,
        dimensions: tuple[int, int] | None,
    ) -> None:
        super().__init__(pixel_type, projection, footprint)
        self.image = image
        self.name = name
        self.dimensions = dimensions


class ConstantBand(Band):
    """The same value everywhere."""

    __slots__ = ("value",)

    def __init__(self, value: float, pixel_type: PixelType | None = None) -> None:
        super().__init__(pixel_type or pixel_types.of_number(value), projections.COMPOSITE)
        self.value = value

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        shape = (grid.height, grid.width)
        values = np.broadcast_to(np.asarray(self.value, dtype=self.pixel_type.dtype), shape)
        return Pixels(values, np.broadcast_to(np.True_, shape))


class MaskedBand(Band):
    """No valid pixel anywhere."""

    __slots__ = ()

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        shape = (grid.height, grid.width)
        return Pixels(np.zeros(shape, self.pixel_type.dtype), np.zeros(shape, bool))


class PointwiseBand(Band):
    """Each output pixel depends on the same pixel of the inputs."""

    __slots__ = ("_function", "_operands")

    def __init__(
        self,
        function: Callable[..., Pixels],
        operands: Sequence[Band],
        pixel_type: PixelType,
        projection: Projection,
        footprint: GeometryValue | None,
    ) -> None:
        super().__init__(pixel_type, projection, footprint)
        self._function = function
        self._operands = tuple(operands)

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        return [(band, grid) for band in self._operands]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        return self._function(*inputs)


class GridBand(Band):
    """Computed from the grid alone, e.g. coordinates."""

    __slots__ = ("_function",)

    def __init__(
        self,
        function: Callable[[Reader, Grid], Pixels],
        pixel_type: PixelType,
        projection: Projection = projections.COMPOSITE,
    ) -> None:
        super().__init__(pixel_type, projection)
        self._function = function

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        return self._function(reader, grid)


class ViewBand(Band):
    """Another band under a different type-preserving description: projection or footprint, without touching pixels."""

    __slots__ = ("operand",)

    def __init__(self, operand: Band, *, projection: Projection | None = None) -> None:
        super().__init__(operand.pixel_type, projection or operand.projection, operand.footprint)
        self.operand = operand

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        return [(self.operand, grid)]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        return inputs[0]


class FootprintBand(Band):
    """A mask that is valid (1) where pixel centres lie inside a geometry."""

    __slots__ = ("geometry",)

    def __init__(self, geometry: GeometryValue) -> None:
        super().__init__(pixel_types.BOOLEAN, projections.COMPOSITE, geometry)
        self.geometry = geometry

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        inside = reader.inside(self.geometry, grid)
        return Pixels(inside.view(np.uint8), inside)


class ClippedBand(Band):
    """A band masked outside a geometry."""

    __slots__ = ("_geometry", "_operand")

    def __init__(self, operand: Band, geometry: GeometryValue, footprint: GeometryValue | None) -> None:
        super().__init__(operand.pixel_type, operand.projection, footprint)
        self._operand = operand
        self._geometry = geometry

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        if self._geometry.is_unbounded:
            return [(self._operand, grid)]
        return [(self._operand, grid)] if reader.inside(self._geometry, grid).any() else []

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        if not inputs:
            shape = (grid.height, grid.width)
            return Pixels(np.zeros(shape, self.pixel_type.dtype), np.zeros(shape, bool))
        if self._geometry.is_unbounded:
            return inputs[0]
        return Pixels(inputs[0].values, inputs[0].valid & reader.inside(self._geometry, grid))


class StackNode(Band):
    """The pixels of many bands at once: inputs of a reduction. Members whose footprint misses the grid are left out.

    Its result is a list of (values, valid) stacks, one per input name, each (members, height, width) in one dtype.
    """

    __slots__ = ("_function", "_groups", "_kinds")

    def __init__(
        self,
        groups: Sequence[Sequence[Band]],
        kinds: Sequence[PixelType],
        function: Callable[[list[Array], BoolArray, Grid], Sequence[Pixels]],
    ) -> None:
        super().__init__(pixel_types.DOUBLE, projections.COMPOSITE)
        self._groups = tuple(tuple(group) for group in groups)
        self._kinds = tuple(kinds)
        self._function = function

    @property
    def footprint(self) -> GeometryValue | None:
        if self._footprint is None:
            self._footprint = union_footprint(band.footprint for group in self._groups for band in group)
        return self._footprint

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        return [
            (band, grid)
            for group in self._groups
            if all(reader.may_meet(band.footprint, grid) for band in group)
            for band in group
        ]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Sequence[Pixels]:
        width = len(self._kinds)
        members = [inputs[start : start + width] for start in range(0, len(inputs), width)]
        shape = (len(members), grid.height, grid.width)
        stacks = []
        valid = np.ones(shape, bool)
        for position, kind in enumerate(self._kinds):
            stack = np.empty(shape, kind.dtype)
            for index, member in enumerate(members):
                stack[index] = member[position].values
                valid[index] &= member[position].valid
            stacks.append(stack)
        return self._function(stacks, valid, grid)


class PickBand(Band):
    """One of the results of a node that computes several."""

    __slots__ = ("_index", "_node")

    def __init__(
        self, node: Band, index: int, pixel_type: PixelType, projection: Projection = projections.COMPOSITE
    ) -> None:
        super().__init__(pixel_type, projection)
        self._node = node
        self._index = index

    @property
    def footprint(self) -> GeometryValue | None:
        return self._node.footprint

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        return [(self._node, grid)]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Any]) -> Pixels:
        picked: Pixels = inputs[0][self._index]
        return picked


def meaningful_projection(bands: Sequence[Band]) -> Projection:
    """The default projection of the first band that has one of its own, else the composites'."""
    for band in bands:
        if band.projection != projections.COMPOSITE:
            return band.projection
    return projections.COMPOSITE
