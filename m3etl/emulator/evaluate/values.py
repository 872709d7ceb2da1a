"""The values that flow through an expression graph besides JSON: geometries, features, images, dates, functions.

Numbers, strings, booleans, lists, dictionaries and null are plain Python values; arrays are numpy arrays. Everything
here is immutable and cheap to build: pixels and collections are only read when something asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.evaluate import projections
from m3etl.emulator.model import Grid, Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.bands import Band


class GeometryValue:
    """A geometry with the projection of its coordinates (None: lon/lat degrees); without a `shape` it is unbounded."""

    __slots__ = ("_in_crs", "_prepared", "geodesic", "projection", "shape")

    def __init__(
        self, shape: BaseGeometry | None, projection: Projection | None = None, *, geodesic: bool = True
    ) -> None:
        self.shape = shape
        self.projection = None if projection == projections.LON_LAT else projection
        self.geodesic = geodesic and self.projection is None
        self._in_crs: dict[str, BaseGeometry] = {}
        self._prepared: dict[str, BaseGeometry] = {}

    @property
    def is_unbounded(self) -> bool:
        return self.shape is None

    @property
    def crs(self) -> str:
        """Coordinate system of the coordinates."""
        return "EPSG:4326" if self.projection is None else self.projection.crs

    def bounded(self) -> BaseGeometry:
        """The shape; the unbounded geometry is an error."""
        if self.shape is None:
            raise invalid("Geometry: Unable to perform this operation on an unbounded geometry.")
        return self.shape

    def in_crs(self, crs: str) -> BaseGeometry:
        """The shape in units of `crs`, with edges densified where the coordinate system changes."""
        found = self._in_crs.get(crs)
        if found is None:
            found = self._in_crs[crs] = self._transform(crs)
        return found

    def prepared(self, crs: str = "EPSG:4326") -> BaseGeometry:
        """`in_crs` for many tests: a prepared copy, because GEOS prepares lazily and shapes are shared by threads."""
        found = self._prepared.get(crs)
        if found is None:
            found = self._prepared[crs] = shapely.from_wkb(shapely.to_wkb(self.in_crs(crs)))
            shapely.prepare(found)
        return found

    def _transform(self, crs: str) -> BaseGeometry:
        shape = self.bounded()
        if self.projection is not None and self.projection.transform != projections.IDENTITY:
            a, b, c, d, e, f = self.projection.transform
            shape = shapely.transform(
                shape, lambda xy: np.column_stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f])
            )
        if projections.same_crs(self.crs, crs):
            return shape
        if shapely.get_dimensions(shape).max() > 0 and not shape.is_empty:
            west, south, east, north = shape.bounds
            longest = max(east - west, north - south)
            if longest > 0:
                shape = shapely.segmentize(shape, longest / 16)
        return shapely.transform(
            shape, lambda xy: np.column_stack(projections.transform_points(self.crs, crs, xy[:, 0], xy[:, 1]))
        )

    def lon_lat(self) -> BaseGeometry:
        """The shape in degrees."""
        return self.in_crs("EPSG:4326")

    def in_pixels(self, projection: Projection) -> BaseGeometry:
        """The shape in pixel coordinates (column, row) of a projection."""
        if self.projection is not None and self.projection == projection:
            return self.bounded()
        a, b, c, d, e, f = projections.invert(projection.transform)
        return shapely.transform(
            self.in_crs(projection.crs),
            lambda xy: np.column_stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f]),
        )


UNBOUNDED = GeometryValue(None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureValue:
    """A geometry, perhaps none, with properties; its id is the property `system:index`."""

    geometry: GeometryValue | None
    properties: Mapping[str, Any]

    @property
    def id(self) -> str | None:
        index = self.properties.get("system:index")
        return None if index is None else str(index)


class ImageValue:
    """Named lazy bands with properties.

    `bands` may be given as a function that makes them on first use. `footprint` is None where unbounded; where it is
    not given it is the union of the bands' footprints. `grid` is set by clipToBoundsAndScale.
    """

    __slots__ = ("_bands", "_footprint", "_own_footprint", "grid", "id", "properties")

    def __init__(
        self,
        bands: Mapping[str, Band] | Callable[[], Mapping[str, Band]],
        properties: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        footprint: GeometryValue | None = None,
        grid: Grid | None = None,
    ) -> None:
        self._bands = bands
        self.properties: Mapping[str, Any] = {} if properties is None else properties
        self.id = id
        self.grid = grid
        self._footprint = footprint
        self._own_footprint = footprint is not None

    @property
    def bands(self) -> Mapping[str, Band]:
        if callable(self._bands):
            self._bands = self._bands()
        return self._bands

    @property
    def footprint(self) -> GeometryValue | None:
        if not self._own_footprint:
            self._footprint = union_footprint(band.footprint for band in self.bands.values())
            self._own_footprint = True
        return self._footprint

    def with_bands(self, bands: Mapping[str, Band], *, grid: Grid | None = None) -> ImageValue:
        """The image with other bands and the same metadata."""
        return ImageValue(bands, self.properties, id=self.id, grid=grid)

    def with_properties(self, properties: Mapping[str, Any]) -> ImageValue:
        """The image with other metadata and the same bands."""
        footprint = self._footprint if self._own_footprint else None
        return ImageValue(self._bands, properties, id=self.id, footprint=footprint, grid=self.grid)

    def first_band(self, algorithm: str) -> Band:
        """The first band; an image without bands is an error."""
        for band in self.bands.values():
            return band
        raise invalid(f"{algorithm}: The image has no bands.")


def union_footprint(footprints: Iterable[GeometryValue | None]) -> GeometryValue | None:
    """The union of footprints; None (unbounded) if one of them is, or if there is none."""
    distinct: dict[int, GeometryValue] = {}
    for footprint in footprints:
        if footprint is None or footprint.is_unbounded:
            return None
        distinct[id(footprint)] = footprint
    if len(distinct) <= 1:
        return next(iter(distinct.values()), None)
    return GeometryValue(shapely.union_all([footprint.lon_lat() for footprint in distinct.values()]))


def intersect_footprint(old: GeometryValue | None, clip: GeometryValue) -> GeometryValue | None:
    """The part of a footprint inside `clip`, exact where one contains the other."""
    if clip.is_unbounded:
        return old
    if old is None or old.is_unbounded:
        return clip
    inner, outer = clip.lon_lat(), old.lon_lat()
    if shapely.covers(outer, inner):
        return clip
    return old if shapely.covers(inner, outer) else GeometryValue(shapely.intersection(outer, inner))


class FunctionValue(Protocol):
    """Something that an expression can call: a user's function or a parsed image expression."""

    @property
    def argument_names(self) -> tuple[str, ...]: ...

    def __call__(self, *arguments: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DateValue:
    """A time in milliseconds since 1970-01-01T00:00:00Z."""

    millis: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DateRangeValue:
    """Times in [start, end) in milliseconds; infinite ends are unbounded."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMarginValue:
    """How far a geometry may be off."""

    value: float
    unit: str = "meters"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelValue:
    """Weights (height, width) around pixel (x, y), or a function of the metres per pixel that makes them."""

    weights: np.ndarray[Any, np.dtype[np.float64]]
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKernel:
    """A kernel given in metres: `make(pixels per metre)` gives the weights for a grid."""

    make: Callable[[float], KernelValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinValue:
    """How two collections are joined: the kind and its settings."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def type_name(value: Any) -> str:
    """The service's name of a value's type, as ObjectType gives it and error messages quote it."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "Boolean"
    if isinstance(value, int | float | np.number):
        return "Integer" if float(value).is_integer() else "Float"
    if isinstance(value, list | tuple):
        return "List"
    name = type(value).__name__
    known = {
        "str": "String",
        "dict": "Dictionary",
        "ndarray": "Array",
        "SourceImages": "Collection",
        "SourceFeatures": "Collection",
    }
    return known.get(name, name.removesuffix("Value"))
