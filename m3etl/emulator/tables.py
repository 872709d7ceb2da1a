"""Tables as files: CSV, GeoJSON and KML, the way the service writes downloads and exports of feature collections."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from m3etl.emulator.model import invalid

media_types = {
    "CSV": "text/csv; charset=UTF-8",
    "GEO_JSON": "application/geo+json",
    "KML": "application/vnd.google-earth.kml+xml",
}
suffixes = {"CSV": ".csv", "GEO_JSON": ".geojson", "KML": ".kml"}
_aliases = {"": "CSV", "JSON": "GEO_JSON", "GEOJSON": "GEO_JSON"}


def check_format(file_format: str) -> str:
    """The format's one name. Raises ServiceError for a format that is not served."""
    name = _aliases.get(file_format, file_format)
    if name not in media_types:
        raise invalid(
            f"Table file format {file_format} is not served by the embedded Earth Engine (served: CSV, GEO_JSON, KML)."
        )
    return name


def encode_table(
    features: Sequence[Mapping[str, Any]], file_format: str, selectors: Sequence[str] | None, name: str
) -> bytes:
    """GeoJSON features as a file. `selectors` picks and orders columns: properties, "system:index" and ".geo"."""
    if file_format == "CSV":
        return _csv(features, selectors)
    if file_format == "GEO_JSON":
        chosen = [_select(feature, selectors) for feature in features]
        return json.dumps({"type": "FeatureCollection", "features": chosen}, separators=(",", ":")).encode()
    return _kml(features, selectors, name)


def _columns(features: Sequence[Mapping[str, Any]], selectors: Sequence[str] | None) -> list[str]:
    if selectors:
        return list(selectors)
    names = {key for feature in features for key in feature.get("properties") or {}}
    return ["system:index", *sorted(names - {"system:index"}), ".geo"]


def _cell(feature: Mapping[str, Any], column: str) -> Any:
    if column == ".geo":
        geometry = feature.get("geometry")
        return json.dumps(geometry, separators=(",", ":")) if geometry is not None else ""
    properties = feature.get("properties") or {}
    value = (
        feature.get("id", "") if column == "system:index" and column not in properties else properties.get(column, "")
    )
    return json.dumps(value) if isinstance(value, list | dict | bool) else value


def _csv(features: Sequence[Mapping[str, Any]], selectors: Sequence[str] | None) -> bytes:
    columns = _columns(features, selectors)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(feature, column) for column in columns] for feature in features)
    return buffer.getvalue().encode()


def _select(feature: Mapping[str, Any], selectors: Sequence[str] | None) -> Mapping[str, Any]:
    if not selectors:
        return feature
    properties = feature.get("properties") or {}
    return {
        "type": "Feature",
        "id": feature.get("id"),
        "geometry": feature.get("geometry") if ".geo" in selectors else None,
        "properties": {key: properties[key] for key in selectors if key in properties},
    }


def _kml(features: Sequence[Mapping[str, Any]], selectors: Sequence[str] | None, name: str) -> bytes:
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document><name>{escape(name)}</name>',
    ]
    columns = [column for column in _columns(features, selectors) if column != ".geo"]
    for feature in features:
        data = "".join(
            f"<Data name={quoteattr(column)}><value>{escape(str(_cell(feature, column)))}</value></Data>"
            for column in columns
        )
        shape = _kml_geometry(feature.get("geometry"))
        parts.append(f"<Placemark><ExtendedData>{data}</ExtendedData>{shape}</Placemark>")
    parts.append("</Document></kml>")
    return "\n".join(parts).encode()


def _kml_geometry(geometry: Mapping[str, Any] | None) -> str:
    if geometry is None:
        return ""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        return f"<MultiGeometry>{''.join(_kml_geometry(part) for part in geometry['geometries'])}</MultiGeometry>"
    if kind.startswith("Multi"):
        single = kind.removeprefix("Multi")
        parts = [_kml_geometry({"type": single, "coordinates": part}) for part in geometry["coordinates"]]
        return f"<MultiGeometry>{''.join(parts)}</MultiGeometry>"
    coordinates = geometry["coordinates"]
    if kind == "Point":
        return f"<Point>{_kml_coordinates([coordinates])}</Point>"
    if kind == "LineString":
        return f"<LineString>{_kml_coordinates(coordinates)}</LineString>"
    rings = [f"<LinearRing>{_kml_coordinates(ring)}</LinearRing>" for ring in coordinates]
    inner = "".join(f"<innerBoundaryIs>{ring}</innerBoundaryIs>" for ring in rings[1:])
    return f"<Polygon><outerBoundaryIs>{rings[0]}</outerBoundaryIs>{inner}</Polygon>"


def _kml_coordinates(points: Sequence[Sequence[float]]) -> str:
    return f"<coordinates>{' '.join(','.join(str(value) for value in point) for point in points)}</coordinates>"
