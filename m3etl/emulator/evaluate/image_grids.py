"""Image algorithms about projections and coordinates, and the grid on which an image is delivered when none is asked
for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from m3etl.emulator.evaluate import pixel_types, projections
from m3etl.emulator.evaluate.bands import Array, Band, ClippedBand, GridBand, PickBand, Pixels, SourceBand, ViewBand
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.resampling import (
    AggregatedNode,
    MovedBand,
    ReprojectedBand,
    ResampledBand,
    projection_from,
)
from m3etl.emulator.evaluate.values import GeometryValue, ImageValue, intersect_footprint
from m3etl.emulator.model import Grid, Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context
    from m3etl.emulator.evaluate.projections import BoolArray
    from m3etl.emulator.evaluate.reader import Reader
    from m3etl.emulator.evaluate.reducers import ReducerValue

EDGE = 1e-6  # a bound this close to a pixel edge lies on it, in pixels


@algorithm("Image.resample")
def resample(context: Context, image: ImageValue, mode: str) -> ImageValue:
    if mode not in ("bilinear", "bicubic"):
        raise invalid(f"Image.resample: Unknown resampling mode '{mode}'; one of bilinear, bicubic.")
    return image.with_bands(
        {
            name: band if band.projection == projections.COMPOSITE else ResampledBand(band, mode)
            for name, band in image.bands.items()
        }
    )


@algorithm("Image.reproject")
def reproject(
    context: Context, image: ImageValue, crs: Projection, transform: list[float] | None, scale: float | None
) -> ImageValue:
    target = projection_from("Image.reproject", crs, transform, scale, crs)
    projections.crs_of(target.crs)
    projections.invert(target.transform)
    return image.with_bands({name: ReprojectedBand(band, target) for name, band in image.bands.items()})


@algorithm("Image.changeProj")
def change_projection(context: Context, input: ImageValue, source: Projection, target: Projection) -> ImageValue:
    return image_moved(input, source, target)


def image_moved(image: ImageValue, source: Projection, target: Projection) -> ImageValue:
    """Every band moved from coordinates in one projection to the same coordinates in another."""
    return image.with_bands({name: MovedBand(band, source, target) for name, band in image.bands.items()})


@algorithm("Image.translate")
def translate(
    context: Context, input: ImageValue, x: float, y: float, units: str, projection: Projection | None
) -> ImageValue:
    base = projection or input.first_band("Image.translate").projection
    if units == "meters":
        unit = projections.metres_per_unit(base.crs)
        a, b, c, d, e, f = base.transform
        target = Projection(crs=base.crs, transform=(a, b, c + x / unit, d, e, f + y / unit))
    elif units == "pixels":
        target = projections.shifted(base, x, y)
    else:
        raise invalid(f"Image.translate: Unknown units '{units}'; one of meters, pixels.")
    return image_moved(input, base, target)


@algorithm("Image.setDefaultProjection")
def set_default_projection(
    context: Context, image: ImageValue, crs: Projection, transform: list[float] | None, scale: float | None
) -> ImageValue:
    target = projection_from("Image.setDefaultProjection", crs, transform, scale, crs)
    return image.with_bands({name: ViewBand(band, projection=target) for name, band in image.bands.items()})


@algorithm("Image.reduceResolution")
def reduce_resolution(
    context: Context, image: ImageValue, reducer: ReducerValue, best_effort: bool, max_pixels: int
) -> ImageValue:
    def function(stacks: list[Array], valid: BoolArray, grid: Grid) -> list[Pixels]:
        return reducer.reduce_stack(stacks, valid)

    def node(bands: list[Band]) -> AggregatedNode:
        return AggregatedNode(bands, function, max_pixels, best_effort)

    bands: dict[str, Band] = {}
    if reducer.inputs == 1:
        for name, band in image.bands.items():
            kinds = reducer.output_types([band.pixel_type])
            made = node([band])
            for index, (output, kind) in enumerate(zip(reducer.outputs, kinds, strict=True)):
                label = name if len(reducer.outputs) == 1 else f"{name}_{output}"
                bands[label] = PickBand(made, index, kind, band.projection)
        return image.with_bands(bands)
    operands = reducer.check_inputs("Image.reduceResolution", list(image.bands.values()))
    made = node(operands)
    kinds = reducer.output_types([band.pixel_type for band in operands])
    for index, (output, kind) in enumerate(zip(reducer.outputs, kinds, strict=True)):
        bands[output] = PickBand(made, index, kind, operands[0].projection)
    return image.with_bands(bands)


@algorithm("Image.clipToBoundsAndScale")
def clip_to_bounds_and_scale(
    context: Context,
    input: ImageValue,
    geometry: GeometryValue | None,
    width: int | None,
    height: int | None,
    max_dimension: int | None,
    scale: float | None,
) -> ImageValue:
    name = "Image.clipToBoundsAndScale"
    base = input.first_band(name).projection
    region = geometry if geometry is not None else input.footprint
    if region is None or region.is_unbounded:
        raise invalid(f"{name}: A geometry is required for an unbounded image.")
    if sum(option is not None for option in (width, max_dimension, scale)) > 1 or (width is None) != (height is None):
        raise invalid(f"{name}: Give either width and height, or maxDimension, or scale.")
    if scale is not None:
        grid = grid_around(region, projections.at_scale(base, scale))
    elif width is None and max_dimension is None:
        grid = grid_around(region, base)
    else:
        west, north, east, south = _pixel_bounds(region, base)
        columns, rows = east - west, south - north
        if width is None or height is None:
            assert max_dimension is not None
            factor = max(columns, rows) / max_dimension
            width, height = max(1, round(columns / factor)), max(1, round(rows / factor))
        grid = Grid(
            projection=Projection(
                crs=base.crs,
                transform=projections.compose(base.transform, (columns / width, 0, west, 0, rows / height, north)),
            ),
            width=width,
            height=height,
        )
    box = GeometryValue(shapely.box(0, 0, grid.width, grid.height), grid.projection, geodesic=False)
    bands: dict[str, Band] = {}
    for label, band in input.bands.items():
        clipped = ClippedBand(band, box, intersect_footprint(band.footprint, box))
        bands[label] = ViewBand(clipped, projection=grid.projection)
    return input.with_bands(bands, grid=grid)


def _pixel_bounds(region: GeometryValue, projection: Projection) -> tuple[float, float, float, float]:
    """Bounds (west, north, east, south) of a region in pixels of a projection, edges snapped to exact pixels."""
    west, north, east, south = region.in_pixels(projection).bounds
    if not all(math.isfinite(value) for value in (west, north, east, south)):
        raise invalid("The region cannot be expressed in the projection of the image.")
    snapped = [float(round(v)) if abs(v - round(v)) < EDGE else v for v in (west, north, east, south)]
    return snapped[0], snapped[1], snapped[2], snapped[3]


def grid_around(region: GeometryValue, projection: Projection) -> Grid:
    """The pixels of a projection that cover a region, snapped outwards."""
    west, north, east, south = _pixel_bounds(region, projection)
    column, row = math.floor(west), math.floor(north)
    width, height = max(1, math.ceil(east) - column), max(1, math.ceil(south) - row)
    return Grid(projection=projections.shifted(projection, column, row), width=width, height=height)


def own_grid(image: ImageValue) -> Grid:
    """The grid of an image for which no grid is asked: its whole extent in the projection of its first band."""
    if image.grid is not None:
        return image.grid
    band = image.first_band("Image")
    if isinstance(band, SourceBand) and band.dimensions is not None:
        return Grid(projection=band.projection, width=band.dimensions[0], height=band.dimensions[1])
    footprint = band.footprint
    if footprint is None or footprint.is_unbounded:
        raise invalid("Unable to export unbounded image.")
    return grid_around(footprint, band.projection)


def _full(grid: Grid) -> BoolArray:
    return np.broadcast_to(np.True_, (grid.height, grid.width))


@algorithm("Image.pixelLonLat")
def pixel_lon_lat(context: Context) -> ImageValue:
    def coordinate(index: int) -> Band:
        def compute(reader: Reader, grid: Grid) -> Pixels:
            values = reader.maps.coordinates(grid, "EPSG:4326")[index]
            finite = np.isfinite(values)
            return Pixels(np.where(finite, values, 0.0), finite)

        return GridBand(compute, pixel_types.DOUBLE)

    return ImageValue({"longitude": coordinate(0), "latitude": coordinate(1)})


@algorithm("Image.pixelCoordinates")
def pixel_coordinates(context: Context, projection: Projection) -> ImageValue:
    def coordinate(index: int) -> Band:
        def compute(reader: Reader, grid: Grid) -> Pixels:
            pixels = projections.native_pixels(grid, projection, reader.maps)
            valid = _full(grid) if pixels.finite is None else pixels.finite
            return Pixels(np.array(pixels.row if index else pixels.column), valid)

        return GridBand(compute, pixel_types.DOUBLE, projection)

    return ImageValue({"x": coordinate(0), "y": coordinate(1)})


@algorithm("Image.pixelArea")
def pixel_area(context: Context) -> ImageValue:
    return ImageValue(
        {"area": GridBand(lambda reader, grid: Pixels(_areas(reader, grid), _full(grid)), pixel_types.DOUBLE)}
    )


def _areas(reader: Reader, grid: Grid) -> Array:
    """Square metres per pixel on the WGS84 ellipsoid, from the lon/lat of the pixel's corners."""
    a, b, c, d, e, f = grid.projection.transform
    corner = Grid(
        projection=Projection(crs=grid.projection.crs, transform=(a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)),
        width=grid.width + 1,
        height=grid.height + 1,
    )
    lon, lat = reader.maps.coordinates(corner, "EPSG:4326")
    # On the authalic sphere the area element is R^2 d(lon) d(sin beta): planar in (lon, sin beta).
    x = np.radians(lon) * 6371007.1809
    y = _authalic_sine(np.radians(lat)) * 6371007.1809
    dx1, dy1 = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    dx2, dy2 = x[1:, :-1] - x[:-1, 1:], y[1:, :-1] - y[:-1, 1:]
    return np.abs(dx1 * dy2 - dx2 * dy1) / 2


def _authalic_sine(latitude: Array) -> Array:
    """Sine of the authalic latitude (Snyder 1987, equations 3-11 and 3-12)."""
    e2 = 0.0066943799901413165
    e = math.sqrt(e2)

    def q(sine: Any) -> Any:
        return (1 - e2) * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)

    return np.asarray(q(np.sin(latitude)) / q(1.0))


@algorithm("Image.random")
def random(context: Context, seed: int, distribution: str) -> ImageValue:
    if distribution not in ("uniform", "normal"):
        raise invalid(f"Image.random: Unknown distribution '{distribution}'; one of uniform, normal.")

    def compute(reader: Reader, grid: Grid) -> Pixels:
        lon, lat = reader.maps.coordinates(grid, "EPSG:4326")
        first = _hashed(lon, lat, seed)
        if distribution == "uniform":
            return Pixels(first, _full(grid))
        second = _hashed(lon, lat, seed ^ 0x5DEECE66D)
        return Pixels(np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second), _full(grid))

    return ImageValue({"random": GridBand(compute, pixel_types.DOUBLE)})


def _hashed(lon: Array, lat: Array, seed: int) -> Array:
    """Numbers in [0, 1) from positions rounded to 1e-7 degrees and a seed (splitmix64 finaliser)."""
    with np.errstate(over="ignore"):
        x = np.round(np.asarray(lon) * 1e7).astype(np.int64).astype(np.uint64)
        y = np.round(np.asarray(lat) * 1e7).astype(np.int64).astype(np.uint64)
        state = x * np.uint64(0x9E3779B97F4A7C15) ^ y * np.uint64(0xC2B2AE3D27D4EB4F)
        state ^= np.uint64(seed & 0xFFFFFFFFFFFFFFFF) * np.uint64(0x165667B19E3779F9)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(11)).astype(np.float64) / 2.0**53)


@algorithm("Projection", "Proj")
def projection(context: Context, crs: Any, transform: list[Any] | None, transform_wkt: str | None) -> Projection:
    if transform_wkt is not None:
        raise invalid("Projection: transformWkt is not supported by the embedded Earth Engine; use transform.")
    base = crs if isinstance(crs, Projection) else None
    if base is None and not isinstance(crs, str):
        raise invalid(f"Projection: The crs must be a string, got {crs!r}.")
    code = base.crs if base is not None else str(crs)
    projections.crs_of(code)
    if transform is None:
        return base or Projection(crs=code, transform=projections.IDENTITY)
    return projection_from(
        "Projection", Projection(crs=code, transform=projections.IDENTITY), transform, None, projections.LON_LAT
    )


@algorithm("Projection.atScale")
def at_scale(context: Context, projection: Projection, meters: float) -> Projection:
    return projections.at_scale(projection, meters)


@algorithm("Projection.crs")
def crs(context: Context, projection: Projection) -> str:
    return projection.crs


@algorithm("Projection.nominalScale")
def nominal_scale(context: Context, proj: Projection) -> float:
    return projections.nominal_scale(proj)


@algorithm("Projection.scale")
def scale(context: Context, projection: Projection, x: float, y: float) -> Projection:
    return Projection(crs=projection.crs, transform=projections.compose(projection.transform, (x, 0, 0, 0, y, 0)))


@algorithm("Projection.translate")
def translate_projection(context: Context, projection: Projection, x: float, y: float) -> Projection:
    return projections.shifted(projection, x, y)


@algorithm("Projection.transform")
def transform(context: Context, projection: Projection) -> str:
    """The transform as WKT, its elements in the order that the service prints them."""
    a, b, c, d, e, f = projection.transform
    rows = {"elt_0_0": a, "elt_0_1": b, "elt_0_2": c, "elt_1_0": d, "elt_1_1": e, "elt_1_2": f}
    body = ", \n  ".join(f'PARAMETER["{name}", {value!r}]' for name, value in rows.items())
    return f'PARAM_MT["Affine", \n  PARAMETER["num_row", 3], \n  PARAMETER["num_col", 3], \n  {body}]'


@algorithm("Projection.wkt")
def wkt(context: Context, projection: Projection) -> str:
    return str(projections.crs_of(projection.crs).to_wkt("WKT1_GDAL", pretty=True))
