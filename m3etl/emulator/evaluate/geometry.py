"""Geometry algorithms: constructors, measures on the WGS84 ellipsoid, set operations, and the same for features.

Set operations and predicates work in lon/lat with straight edges; buffers in a local azimuthal equidistant projection.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.evaluate import projections
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.values import UNBOUNDED, ErrorMarginValue, FeatureValue, GeometryValue
from m3etl.emulator.model import Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

GEOD = pyproj.Geod(ellps="WGS84")


def _pairs(name: str, coordinates: Any) -> list[tuple[float, float]]:
    """Positions from [[x, y], …] or a flat [x, y, x, y, …]; points may also be geometries."""
    if coordinates and all(isinstance(value, int | float) for value in coordinates):
        if len(coordinates) % 2:
            raise invalid(f"{name}: Invalid coordinates: an even number of values is needed, got {len(coordinates)}.")
        return [(float(x), float(y)) for x, y in zip(coordinates[::2], coordinates[1::2], strict=True)]
    result = []
    for item in coordinates:
        if isinstance(item, GeometryValue):
            point = shapely.get_coordinates(item.bounded())[0]
            result.append((float(point[0]), float(point[1])))
        elif isinstance(item, list) and len(item) >= 2 and all(isinstance(value, int | float) for value in item[:2]):
            result.append((float(item[0]), float(item[1])))
        else:
            raise invalid(f"{name}: Invalid coordinates: {item!r} is not a position.")
    return result


def _rings(name: str, coordinates: Any) -> BaseGeometry:
    if not coordinates:
        return shapely.Polygon()
    nested = isinstance(coordinates[0], list) and coordinates[0] and isinstance(coordinates[0][0], list | GeometryValue)
    rings = [_pairs(name, ring) for ring in (coordinates if nested else [coordinates])]
    if any(len(ring) < 3 for ring in rings):
        raise invalid(f"{name}: Polygon coordinates must have at least 3 points.")
    polygon = shapely.Polygon(rings[0], rings[1:])
    return polygon if polygon.is_valid else shapely.make_valid(polygon)


def _value(shape: BaseGeometry, crs: Projection | None, geodesic: bool | None) -> GeometryValue:
    return GeometryValue(shape, crs, geodesic=True if geodesic is None else geodesic)


@algorithm("GeometryConstructors.Point")
def point(context: Context, coordinates: list[float], crs: Projection | None) -> GeometryValue:
    if len(coordinates) != 2:
        raise invalid(f"GeometryConstructors.Point: Expected 2 coordinates, got {len(coordinates)}.")
    return _value(shapely.Point(coordinates), crs, None)


@algorithm("GeometryConstructors.MultiPoint")
def multi_point(context: Context, coordinates: list[Any], crs: Projection | None) -> GeometryValue:
    return _value(shapely.MultiPoint(_pairs("GeometryConstructors.MultiPoint", coordinates)), crs, None)


@algorithm("GeometryConstructors.LineString", "GeometryConstructors.LinearRing")
def line(
    context: Context, coordinates: list[Any], crs: Projection | None, geodesic: bool | None, max_error: Any
) -> GeometryValue:
    return _value(shapely.LineString(_pairs("GeometryConstructors.LineString", coordinates)), crs, geodesic)


@algorithm("GeometryConstructors.MultiLineString")
def multi_line(
    context: Context, coordinates: list[Any], crs: Projection | None, geodesic: bool | None, max_error: Any
) -> GeometryValue:
    lines = [_pairs("GeometryConstructors.MultiLineString", part) for part in coordinates]
    return _value(shapely.MultiLineString(lines), crs, geodesic)


@algorithm("GeometryConstructors.Polygon")
def polygon(
    context: Context,
    coordinates: list[Any],
    crs: Projection | None,
    geodesic: bool | None,
    max_error: Any,
    even_odd: bool,
) -> GeometryValue:
    return _value(_rings("GeometryConstructors.Polygon", coordinates), crs, geodesic)


@algorithm("GeometryConstructors.MultiPolygon")
def multi_polygon(
    context: Context,
    coordinates: list[Any],
    crs: Projection | None,
    geodesic: bool | None,
    max_error: Any,
    even_odd: bool,
) -> GeometryValue:
    parts = [_rings("GeometryConstructors.MultiPolygon", part) for part in coordinates]
    polygons = [part for part in parts if isinstance(part, shapely.Polygon)]
    merged = shapely.MultiPolygon(polygons)
    if len(polygons) < len(parts) or not merged.is_valid:
        return _value(shapely.union_all(parts), crs, geodesic)
    return _value(merged, crs, geodesic)


@algorithm("GeometryConstructors.Rectangle")
def rectangle(
    context: Context, coordinates: list[Any], crs: Projection | None, geodesic: bool | None, even_odd: bool
) -> GeometryValue:
    corners = _pairs("GeometryConstructors.Rectangle", coordinates)
    if len(corners) < 2:
        raise invalid("GeometryConstructors.Rectangle: Two corners are needed.")
    x, y = [corner[0] for corner in corners], [corner[1] for corner in corners]
    if any(math.isinf(value) for value in (*x, *y)):
        return UNBOUNDED
    return _value(shapely.box(min(x), min(y), max(x), max(y)), crs, geodesic)


@algorithm("GeometryConstructors.BBox")
def bbox(context: Context, west: float, south: float, east: float, north: float) -> GeometryValue:
    south, north = max(south, -90.0), min(north, 90.0)
    if math.isinf(west) or math.isinf(east) or east - west >= 360:
        west, east = -180.0, 180.0
    return GeometryValue(shapely.box(west, south, east, north), geodesic=False)


@algorithm("GeometryConstructors.MultiGeometry")
def multi_geometry(
    context: Context, geometries: list[GeometryValue], crs: Projection | None, geodesic: bool | None, max_error: Any
) -> GeometryValue:
    return _value(shapely.GeometryCollection([item.lon_lat() for item in geometries]), crs, geodesic)


def in_projection(geometry: GeometryValue, proj: Projection) -> GeometryValue:
    """The same place with coordinates in another projection's pixels."""
    if geometry.is_unbounded:
        return geometry
    return GeometryValue(geometry.in_pixels(proj), proj, geodesic=False)


def area_m2(geometry: GeometryValue) -> float:
    """Square metres on the ellipsoid."""
    shape = geometry.lon_lat()
    return 0.0 if shapely.get_dimensions(shape) < 2 else abs(GEOD.geometry_area_perimeter(_oriented(shape))[0])


def _oriented(shape: BaseGeometry) -> BaseGeometry:
    """The polygons of a shape with their exteriors counter-clockwise, so that areas add up."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type in ("Polygon", "MultiPolygon")]
    polygons = [shapely.geometry.polygon.orient(p) for part in parts for p in shapely.get_parts(part)]
    return shapely.MultiPolygon(polygons)


def length_m(geometry: GeometryValue, outline: bool) -> float:
    """Metres along lines, or around polygons with `outline`."""
    shape = geometry.lon_lat()
    if (shapely.get_dimensions(shape) == 2) != outline:
        return 0.0
    return float(GEOD.geometry_length(shape.boundary if outline else shape))


@functools.lru_cache(maxsize=256)
def _local(lon: float, lat: float) -> str:
    """An azimuthal equidistant coordinate system in metres around a place."""
    return f"+proj=aeqd +lat_0={lat!r} +lon_0={lon!r} +datum=WGS84 +units=m +no_defs"


def _around(geometry: GeometryValue) -> str:
    centre = geometry.lon_lat().centroid
    return _local(round(centre.x, 6), round(centre.y, 6))


def distance_m(a: GeometryValue, b: GeometryValue) -> float:
    """Metres between two geometries."""
    if a.is_unbounded or b.is_unbounded:
        return 0.0
    crs = _around(a)
    return float(shapely.distance(_projected(a, crs), _projected(b, crs)))


def _projected(geometry: GeometryValue, crs: str) -> BaseGeometry:
    """A shape in metres of a passing coordinate system, not remembered."""
    found = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    return shapely.transform(geometry.lon_lat(), lambda xy: np.column_stack(found.transform(xy[:, 0], xy[:, 1])))


def buffered(geometry: GeometryValue, distance: float, proj: Projection | None) -> GeometryValue:
    """The geometry grown by metres, or by units of a projection."""
    if geometry.is_unbounded:
        return geometry
    if proj is not None:
        return GeometryValue(geometry.in_pixels(proj).buffer(distance), proj, geodesic=False)
    crs = _around(geometry)
    grown = _projected(geometry, crs).buffer(distance)
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    return GeometryValue(shapely.transform(grown, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1]))))


def _bounds(geometry: GeometryValue, proj: Projection | None) -> GeometryValue:
    if geometry.is_unbounded:
        return geometry
    if proj is not None and proj != projections.LON_LAT:
        return GeometryValue(shapely.box(*geometry.in_pixels(proj).bounds), proj, geodesic=False)
    return GeometryValue(shapely.box(*geometry.lon_lat().bounds), geodesic=False)


def _simplified(geometry: GeometryValue, error: ErrorMarginValue) -> GeometryValue:
    degrees = error.value / projections.METRES_PER_DEGREE
    return GeometryValue(geometry.lon_lat().simplify(degrees))


def _dissolved(geometry: GeometryValue) -> GeometryValue:
    return GeometryValue(shapely.unary_union(geometry.lon_lat()))


Unary = Callable[..., Any]


def _register_shape(name: str, function: Unary) -> None:
    """Register Geometry.x and Feature.x; the feature one keeps properties."""

    @algorithm(f"Geometry.{name}")
    def of_geometry(context: Context, geometry: GeometryValue, *arguments: Any) -> Any:
        return function(geometry, *arguments)

    @algorithm(f"Feature.{name}")
    def of_feature(context: Context, feature: Any, *arguments: Any) -> Any:
        from m3etl.emulator.evaluate.images import geometry_of

        made = function(geometry_of(f"Feature.{name}", feature), *arguments)
        return FeatureValue(geometry=made, properties=feature.properties) if isinstance(made, GeometryValue) else made


_register_shape("buffer", lambda geometry, distance, error, proj: buffered(geometry, distance, proj))
_register_shape("bounds", lambda geometry, error, proj: _bounds(geometry, proj))
_register_shape("centroid", lambda geometry, error, proj: GeometryValue(geometry.lon_lat().centroid))
_register_shape("convexHull", lambda geometry, error, proj: GeometryValue(geometry.lon_lat().convex_hull))
_register_shape("simplify", lambda geometry, error, proj: _simplified(geometry, error))
_register_shape("dissolve", lambda geometry, error, proj: _dissolved(geometry))
_register_shape("transform", lambda geometry, proj, error, geodesic: in_projection(geometry, proj))
_register_shape("area", lambda geometry, error, proj: area_m2(geometry))
_register_shape("length", lambda geometry, error, proj: length_m(geometry, False))
_register_shape("perimeter", lambda geometry, error, proj: length_m(geometry, True))


def _register_pair(name: str, function: Callable[..., Any]) -> None:
    """Register a predicate or set operation of two geometries or features."""

    @algorithm(f"Geometry.{name}")
    def of_geometries(context: Context, left: GeometryValue, right: GeometryValue, *arguments: Any) -> Any:
        return function(left, right, *arguments)

    @algorithm(f"Feature.{name}")
    def of_features(context: Context, left: Any, right: Any, *arguments: Any) -> Any:
        from m3etl.emulator.evaluate.images import geometry_of

        made = function(geometry_of(f"Feature.{name}", left), geometry_of(f"Feature.{name}", right), *arguments)
        return FeatureValue(geometry=made, properties=left.properties) if isinstance(made, GeometryValue) else made


def _predicate(test: Callable[[BaseGeometry, BaseGeometry], Any], unbounded: bool) -> Callable[..., bool]:
    def apply(left: GeometryValue, right: GeometryValue, *arguments: Any) -> bool:
        if left.is_unbounded or right.is_unbounded:
            return unbounded
        return bool(test(left.lon_lat(), right.lon_lat()))

    return apply


def _operation(combine: Callable[[BaseGeometry, BaseGeometry], Any]) -> Callable[..., GeometryValue]:
    def apply(left: GeometryValue, right: GeometryValue, *arguments: Any) -> GeometryValue:
        if left.crs == right.crs and left.projection == right.projection and left.projection is not None:
            return GeometryValue(combine(left.bounded(), right.bounded()), left.projection, geodesic=False)
        return GeometryValue(combine(left.lon_lat(), right.lon_lat()))

    return apply


def _intersection(left: GeometryValue, right: GeometryValue, *arguments: Any) -> GeometryValue:
    if left.is_unbounded or right.is_unbounded:
        return right if left.is_unbounded else left
    return _operation(shapely.intersection)(left, right)


_register_pair("intersects", _predicate(shapely.intersects, True))
_register_pair("disjoint", _predicate(lambda a, b: not shapely.intersects(a, b), False))
_register_pair("contains", _predicate(shapely.covers, True))
_register_pair("containedIn", _predicate(lambda a, b: shapely.covers(b, a), False))
_register_pair("intersection", _intersection)
_register_pair("union", _operation(shapely.union))
_register_pair("difference", _operation(shapely.difference))
_register_pair("symmetricDifference", _operation(shapely.symmetric_difference))
_register_pair("distance", lambda left, right, *arguments: distance_m(left, right))
_register_pair("withinDistance", lambda left, right, distance, *arguments: distance_m(left, right) <= distance)


def from_geojson(value: dict[str, Any]) -> GeometryValue:
    """A geometry from GeoJSON, as a constant in a graph may carry it."""
    try:
        return GeometryValue(shapely.geometry.shape(value), geodesic=bool(value.get("geodesic", True)))
    except (shapely.errors.ShapelyError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise invalid(f"Geometry: Invalid GeoJSON geometry of type {value.get('type')!r}.") from error


def coordinates_of(shape: BaseGeometry) -> Any:
    """GeoJSON coordinates as lists."""
    return _lists(mapping(shape).get("coordinates", []))


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


@algorithm("Geometry.coordinates")
def coordinates(context: Context, geometry: GeometryValue) -> list[Any]:
    return list(coordinates_of(geometry.bounded()))


@algorithm("Geometry.type")
def geometry_type(context: Context, geometry: GeometryValue) -> str:
    return str(geometry.bounded().geom_type)


@algorithm("Geometry.geodesic", "Geometry.edgesAreGeodesics")
def geodesic(context: Context, geometry: GeometryValue) -> bool:
    return geometry.geodesic


@algorithm("Geometry.geometries")
def geometries(context: Context, geometry: GeometryValue) -> list[GeometryValue]:
    parts = shapely.get_parts(geometry.bounded())
    return [GeometryValue(part, geometry.projection, geodesic=geometry.geodesic) for part in parts]


@algorithm("Geometry.isUnbounded")
def is_unbounded(context: Context, geometry: GeometryValue) -> bool:
    return geometry.is_unbounded


@algorithm("Geometry.projection")
def projection(context: Context, geometry: GeometryValue) -> Projection:
    return geometry.projection or projections.LON_LAT


@algorithm("Geometry.coveringGrid")
def covering_grid(context: Context, geometry: GeometryValue, proj: Projection, scale: float | None) -> CollectionValue:
    target = proj if scale is None else projections.at_scale(proj, scale)

    def cells() -> Any:
        shape = geometry.in_pixels(target)
        west, north, east, south = shape.bounds
        for row in range(math.floor(north), math.ceil(south)):
            context.budget.check_time()
            for column in range(math.floor(west), math.ceil(east)):
                box = shapely.box(column, row, column + 1, row + 1)
                if shapely.intersects(shape, box):
                    cell = GeometryValue(box, target, geodesic=False)
                    yield FeatureValue(geometry=cell, properties={"system:index": f"{column},{row}"})

    return CollectionValue(cells, "feature", budget=context.budget)
