"""The JSON of results: what getInfo shows for every kind of value, and assets as the REST API describes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import mapping

from m3etl.emulator.evaluate import pixel_types, projections
from m3etl.emulator.evaluate.bands import Band, SourceBand
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.values import (
    DateRangeValue,
    DateValue,
    ErrorMarginValue,
    FeatureValue,
    GeometryValue,
    ImageValue,
    type_name,
)
from m3etl.emulator.model import Grid, ImageInfo, PixelType, Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


def encode(context: Context, value: Any) -> Any:
    """The getInfo form of a value. Whole numbers have no decimal point; NaN and infinities are null."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float | np.generic):
        return number(value)
    if isinstance(value, list | tuple):
        return [encode(context, item) for item in value]
    if isinstance(value, np.ndarray):
        return encode(context, value.tolist())
    if isinstance(value, Mapping):
        return {str(key): encode(context, item) for key, item in value.items()}
    if isinstance(value, ImageValue):
        return image_json(context, value)
    if isinstance(value, CollectionValue):
        return collection_json(context, value)
    if isinstance(value, FeatureValue):
        return feature_json(context, value)
    simple = _simple(value)
    if simple is not None:
        return simple
    raise invalid(f"Results of type {type_name(value)} cannot be returned.")


def number(value: Any) -> Any:
    """A JSON number."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float):
        if not math.isfinite(plain):
            return None
        return int(plain) if plain.is_integer() and abs(plain) < 1e15 else plain
    return plain


def _simple(value: Any) -> dict[str, Any] | None:
    if isinstance(value, GeometryValue):
        return geometry_json(value)
    if isinstance(value, Projection):
        return projection_json(value)
    if isinstance(value, DateValue):
        return {"type": "Date", "value": number(value.millis)}
    if isinstance(value, DateRangeValue):
        return {"type": "DateRange", "dates": [number(value.start), number(value.end)]}
    if isinstance(value, PixelType):
        return {
            key: number(item) if not isinstance(item, str) else item for key, item in pixel_types.encode(value).items()
        }
    if isinstance(value, ErrorMarginValue):
        return {"type": "ErrorMargin", "unit": value.unit, "value": number(value.value)}
    return None


def projection_json(projection: Projection) -> dict[str, Any]:
    """A projection: its code, or its WKT, with the transform."""
    key = "crs" if len(projection.crs) < 64 else "wkt"
    return {"type": "Projection", key: projection.crs, "transform": [number(value) for value in projection.transform]}


def geometry_json(geometry: GeometryValue) -> dict[str, Any]:
    """GeoJSON of a geometry; other coordinate systems than lon/lat are named."""
    if geometry.shape is None:
        return {"type": "Polygon", "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]}
    found = _listed(mapping(geometry.shape))
    if geometry.projection is not None:
        found["crs"] = {"type": "name", "properties": {"name": geometry.projection.crs}}
        if geometry.projection.transform != projections.IDENTITY:
            found["crs"]["properties"]["transform"] = [number(value) for value in geometry.projection.transform]
    if not geometry.geodesic and shapely.get_dimensions(geometry.shape) > 0:
        found["geodesic"] = False
    return found


def _listed(shape: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": shape["type"]}
    if "geometries" in shape:
        found["geometries"] = [_listed(part) for part in shape["geometries"]]
    else:
        found["coordinates"] = _coordinates(shape["coordinates"])
    return found


def _coordinates(value: Any) -> Any:
    return [_coordinates(item) for item in value] if isinstance(value, list | tuple) else number(value)


def feature_json(context: Context, feature: FeatureValue, geometry: GeometryValue | None = None) -> dict[str, Any]:
    """A GeoJSON feature with its index as id."""
    place = feature.geometry or geometry
    properties = {k: encode(context, v) for k, v in feature.properties.items() if k != "system:index"}
    found: dict[str, Any] = {
        "type": "Feature",
        "geometry": None if place is None else geometry_json(place),
        "properties": properties,
    }
    if feature.id is not None:
        found["id"] = feature.id
    return found


def image_json(context: Context, image: ImageValue) -> dict[str, Any]:
    """The description of an image: its bands and properties, no pixels."""
    found: dict[str, Any] = {"type": "Image"}
    found["bands"] = [_band_json(name, band, image.grid) for name, band in image.bands.items()]
    if image.id is not None:
        found["id"] = image.id
    if image.properties or image.id is not None:
        found["properties"] = {key: encode(context, value) for key, value in image.properties.items()}
        if image.id is not None and image.footprint is not None and "system:footprint" not in found["properties"]:
            found["properties"]["system:footprint"] = _ring(image.footprint)
    return found


def _ring(footprint: GeometryValue) -> dict[str, Any]:
    shape = footprint.lon_lat()
    if isinstance(shape, shapely.Polygon):
        return {"type": "LinearRing", "coordinates": _coordinates(list(shape.exterior.coords))}
    return geometry_json(footprint)


def _band_json(name: str, band: Band, grid: Grid | None) -> dict[str, Any]:
    kind = {k: v if isinstance(v, str) else number(v) for k, v in pixel_types.encode(band.pixel_type).items()}
    found: dict[str, Any] = {"id": name, "data_type": kind}
    size = _dimensions(band, grid)
    if size is not None:
        found["dimensions"] = list(size[1])
        if size[0] != (0, 0):
            found["origin"] = list(size[0])
    key = "crs" if len(band.projection.crs) < 64 else "crs_wkt"
    found[key] = band.projection.crs
    found["crs_transform"] = [number(value) for value in band.projection.transform]
    return found


def _dimensions(band: Band, grid: Grid | None) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(origin, size) in pixels of the band's projection where it is bounded."""
    if grid is not None:
        return (0, 0), (grid.width, grid.height)
    if isinstance(band, SourceBand) and band.dimensions is not None:
        return (0, 0), band.dimensions
    if band.footprint is None or band.footprint.is_unbounded:
        return None
    west, north, east, south = band.footprint.in_pixels(band.projection).bounds
    if not all(math.isfinite(value) for value in (west, north, east, south)):
        return None
    origin = (math.floor(west + 1e-6), math.floor(north + 1e-6))
    return origin, (math.ceil(east - 1e-6) - origin[0], math.ceil(south - 1e-6) - origin[1])


def collection_json(context: Context, collection: CollectionValue) -> dict[str, Any]:
    """A collection with its elements; more than the service's limit is an error."""
    limit = context.limits.collection_elements
    elements = list(islice(collection.elements(), limit + 1))
    if len(elements) > limit:
        raise invalid(f"Collection query aborted after accumulating over {limit} elements.")
    if collection.kind == "image":
        found: dict[str, Any] = {"type": "ImageCollection", "bands": []}
    else:
        found = {"type": "FeatureCollection", "columns": columns_of(elements)}
    if collection.id is not None:
        found["id"] = collection.id
    if collection.properties:
        found["properties"] = {key: encode(context, value) for key, value in collection.properties.items()}
    found["features"] = [encode(context, element) for element in elements]
    return found


def columns_of(elements: list[Any]) -> dict[str, str]:
    """Names and types of the properties of the first feature, as collections list them."""
    if not elements or not isinstance(elements[0], FeatureValue):
        return {}
    columns = {name: type_name(value) for name, value in elements[0].properties.items() if value is not None}
    columns["system:index"] = "String"
    return dict(sorted(columns.items()))


def asset_json(info: ImageInfo) -> dict[str, Any]:
    """A source image as the REST API's EarthEngineAsset."""
    properties = {k: v for k, v in info.properties.items() if k not in _ASSET_FIELDS}
    found: dict[str, Any] = {
        "type": "IMAGE",
        "name": asset_name(info.id),
        "id": info.id,
        "properties": {key: _plain(value) for key, value in properties.items()},
        "bands": [_asset_band(band.id, band.pixel_type, band.projection, band.dimensions) for band in info.bands],
    }
    for key, source in (("startTime", "system:time_start"), ("endTime", "system:time_end")):
        if info.properties.get(source) is not None:
            found[key] = timestamp(float(info.properties[source]))
    if info.footprint is not None:
        found["geometry"] = _listed(mapping(info.footprint))
    return found


_ASSET_FIELDS = ("system:index", "system:time_start", "system:time_end", "system:footprint")


def asset_name(asset_id: str) -> str:
    """The full name of a public or project asset id."""
    return asset_id if asset_id.startswith("projects/") else f"projects/earthengine-public/assets/{asset_id}"


def timestamp(millis: float) -> str:
    """RFC 3339 with the fraction only where there is one."""
    moment = datetime.fromtimestamp(millis / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{round(millis % 1000):03d}Z" if millis % 1000 else "Z")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.millis if isinstance(value, DateValue) else number(value) if isinstance(value, np.generic) else value


def _asset_band(
    name: str, kind: PixelType, projection: Projection, dimensions: tuple[int, int] | None
) -> dict[str, Any]:
    a, b, c, d, e, f = projection.transform
    data_type: dict[str, Any] = {"precision": {"int": "INT", "float": "FLOAT", "double": "DOUBLE"}[kind.precision]}
    if kind.precision == "int":
        low, high = pixel_types.limits(kind)
        data_type["range"] = {"min": number(low), "max": number(high)}
    key = "crsCode" if len(projection.crs) < 64 else "crsWkt"
    affine = {"scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f}
    grid: dict[str, Any] = {key: projection.crs, "affineTransform": {k: v for k, v in affine.items() if v}}
    if dimensions is not None:
        grid["dimensions"] = {"width": dimensions[0], "height": dimensions[1]}
    return {"id": name, "dataType": data_type, "grid": grid}


def image_asset(context: Context, image: ImageValue) -> dict[str, Any]:
    """A computed image as an EarthEngineAsset, for imageCollection:computeImages."""
    found: dict[str, Any] = {"type": "IMAGE"}
    if image.id is not None:
        found |= {"name": asset_name(image.id), "id": image.id}
    for key, source in (("startTime", "system:time_start"), ("endTime", "system:time_end")):
        time = image.properties.get(source)
        time = time.millis if isinstance(time, DateValue) else time
        if isinstance(time, int | float):
            found[key] = timestamp(float(time))
    found["properties"] = {k: encode(context, v) for k, v in image.properties.items() if k not in _ASSET_FIELDS}
    if image.footprint is not None:
        found["geometry"] = _listed(mapping(image.footprint.lon_lat()))
    bands = []
    for name, band in image.bands.items():
        size = _dimensions(band, image.grid)
        bands.append(_asset_band(name, band.pixel_type, band.projection, None if size is None else size[1]))
    found["bands"] = bands
    return found
