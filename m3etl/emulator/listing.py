"""Assets by name: getAsset, listAssets with its filter text and pages, listFeatures."""

from __future__ import annotations

import base64
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from shapely.errors import GEOSException
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.wkt import loads as load_wkt

from m3etl.emulator.model import AssetSource, CollectionQuery, ImageInfo, SourceCollection, invalid, not_found

default_page = 1000

_public = "projects/earthengine-public/assets/"
_legacy = "projects/earthengine-legacy/assets/"

_operators: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_term = re.compile(
    r"""\s*(?:
        (?P<intersects>intersects)\s*\(\s*"(?P<region>[^"]*)"\s*\)
        | (?P<key>(?:properties\.)?(?:"[^"]+"|[\w:.\-]+?))\s*(?P<op><=|>=|!=|==|=|<|>)\s*
          (?P<value>"[^"]*"|'[^']*'|[^\s()]+)
    )\s*""",
    re.VERBOSE,
)
_conjunction = re.compile(r"AND\b", re.IGNORECASE)

AssetJson = Callable[[ImageInfo], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`key operator value` of a filter; the key is startTime, endTime, or a property."""

    key: str
    operator: str
    value: str | float

    def holds(self, found: Any) -> bool:
        """Whether a found value passes; missing values and values of another type never do."""
        if found is None or isinstance(found, str) != isinstance(self.value, str):
            return False
        try:
            return _operators[self.operator](found, self.value)
        except TypeError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFilter:
    """A parsed filter text: all comparisons hold and the footprint meets the region."""

    comparisons: tuple[Comparison, ...] = ()
    region: BaseGeometry | None = None

    def query(self) -> CollectionQuery:
        """The part that a collection can use to find images quickly."""
        start, end = None, None
        for item in self.comparisons:
            if item.key == "startTime" and item.operator in (">", ">=", "=", "=="):
                start = max(_milliseconds(item.value), start) if start is not None else _milliseconds(item.value)
            # An image ends no sooner than it starts, so a bound on its end bounds its start.
            if item.key in ("startTime", "endTime") and item.operator in ("<", "<=", "=", "=="):
                bound = _milliseconds(item.value) + (0 if item.operator == "<" else 1)
                end = min(bound, end) if end is not None else bound
        return CollectionQuery(region=self.region, start_ms=start, end_ms=end)

    def keeps(self, properties: Mapping[str, Any]) -> bool:
        """Whether an asset with these properties passes the comparisons."""
        return all(_holds(item, properties) for item in self.comparisons)


def _holds(item: Comparison, properties: Mapping[str, Any]) -> bool:
    if item.key not in ("startTime", "endTime"):
        return item.holds(properties.get(item.key))
    start = properties.get("system:time_start")
    found = start if item.key == "startTime" else properties.get("system:time_end", start)
    return found is not None and _operators[item.operator](found, _milliseconds(item.value))


def parse_filter(text: str) -> AssetFilter:
    """Parses the filter text of listAssets: terms joined by AND (https://google.aip.dev/160, the part clients use)."""
    comparisons: list[Comparison] = []
    region: BaseGeometry | None = None
    position = 0
    while text[position:].strip():
        if comparisons or region is not None:
            joint = _conjunction.match(text, position)
            if joint is None:
                raise invalid(f"Invalid filter: expected AND at character {position} of '{text}'.")
            position = joint.end()
        term = _term.match(text, position)
        if term is None:
            raise invalid(f"Invalid filter: cannot parse '{text[position:]}'.")
        if term["intersects"]:
            region = _read_region(term["region"])
        else:
            comparisons.append(_comparison(term["key"], term["op"], term["value"]))
        position = term.end()
    return AssetFilter(comparisons=tuple(comparisons), region=region)


def _comparison(key: str, symbol: str, text: str) -> Comparison:
    name = key.removeprefix("properties.").strip('"')
    value: str | float = text[1:-1] if text[0] in "\"'" else text
    if text[0] not in "\"'":
        try:
            value = float(text)
        except ValueError:
            value = text
    if name in ("startTime", "endTime") and key == name:
        _milliseconds(value)
    elif not key.startswith("properties."):
        raise invalid(f"Invalid filter: unknown field '{key}'; properties are written properties.{key}.")
    return Comparison(key=name, operator=symbol, value=value)


def _read_region(text: str) -> BaseGeometry:
    """GeoJSON (with single or double quotes) or WKT."""
    try:
        if text.lstrip().startswith("{"):
            value = json.loads(text.replace("'", '"'))
            return shape(value.get("geometry", value))
        return load_wkt(text)
    except (ValueError, KeyError, TypeError, AttributeError, GEOSException):
        raise invalid(f"Invalid filter: region '{text[:80]}' is neither GeoJSON nor WKT.") from None


def _milliseconds(value: str | float) -> float:
    """A timestamp (ISO 8601, UTC unless it says otherwise; or ms since the epoch) as ms since the epoch."""
    if not isinstance(value, str):
        return value
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise invalid(f"Invalid filter: '{value}' is not a time.") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000.0


def asset_id(name: str) -> str:
    """The id that asset sources know: names below earthengine-public and -legacy lose that prefix."""
    for prefix in (_public, _legacy):
        if name.startswith(prefix):
            return name.removeprefix(prefix).strip("/")
    return name.strip("/")


def asset_name(identifier: str) -> str:
    """The resource name (projects/*/assets/**) of an asset id."""
    if re.match(r"projects/[^/]+/assets(/|$)", identifier):
        return identifier
    return (_legacy if identifier.split("/")[0] in ("users", "projects") else _public) + identifier


def describe_asset(assets: AssetSource, name: str, asset_json: AssetJson) -> dict[str, Any]:
    """The EarthEngineAsset of a name. Raises ServiceError 404 where there is none."""
    identifier = asset_id(name)
    image = assets.image(identifier)
    if image is not None:
        return asset_json(image.info)
    named = {"name": asset_name(identifier), "id": identifier}
    collection = assets.collection(identifier)
    if collection is not None:
        return {"type": "IMAGE_COLLECTION", **named, "properties": dict(collection.properties)}
    table = assets.table(identifier)
    if table is not None:
        return {
            "type": "TABLE",
            **named,
            "properties": dict(table.properties),
            "featureCount": str(len(table.features)),
        }
    if assets.list_ids(identifier):
        return {"type": "FOLDER", **named}
    raise not_found(f"Asset '{identifier}' not found (does not exist or caller does not have access).")


def list_assets(assets: AssetSource, name: str, query: Mapping[str, str], asset_json: AssetJson) -> dict[str, Any]:
    """One page of a folder or collection: {"assets": [...], "nextPageToken"?}. view=BASIC leaves names and types."""
    identifier = asset_id(name)
    parsed = parse_filter(query.get("filter", ""))
    size = page_size(query.get("pageSize"))
    collection = assets.collection(identifier)
    if collection is not None:
        page, token = _list_images(collection, parsed, size, query.get("pageToken", ""), asset_json)
    else:
        page, token = _list_folder(assets, identifier, size, query.get("pageToken", ""))
    if query.get("view") == "BASIC":
        page = [{key: item[key] for key in ("type", "name", "id") if key in item} for item in page]
    return {"assets": page, **({"nextPageToken": token} if token else {})}


def _list_folder(assets: AssetSource, identifier: str, size: int, token: str) -> tuple[list[dict[str, Any]], str]:
    entries = assets.list_ids(identifier)
    if not entries and assets.image(identifier) is None and not re.fullmatch(r"projects/[^/]+(/assets)?", identifier):
        raise not_found(f"Asset '{identifier}' not found (does not exist or caller does not have access).")
    start = read_token(token)
    page = [{"type": kind, "name": asset_name(item), "id": item} for item, kind in entries[start : start + size]]
    return page, write_token(start + size) if start + size < len(entries) else ""


def _list_images(
    collection: SourceCollection, parsed: AssetFilter, size: int, token: str, asset_json: AssetJson
) -> tuple[list[dict[str, Any]], str]:
    start = read_token(token)
    kept = (image.info for image in collection.find(parsed.query()) if parsed.keeps(image.info.properties))
    page = list(islice(kept, start, start + size + 1))
    return [asset_json(info) for info in page[:size]], write_token(start + size) if len(page) > size else ""


def list_features(assets: AssetSource, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One page of a table asset as a GeoJSON FeatureCollection."""
    identifier = asset_id(name)
    table = assets.table(identifier)
    if table is None:
        raise not_found(f"Asset '{identifier}' not found (does not exist or caller does not have access).")
    parsed = parse_filter(query.get("filter", ""))
    region = _read_region(query["region"]) if query.get("region") else parsed.region
    start, size = read_token(query.get("pageToken", "")), page_size(query.get("pageSize"))

    def kept() -> Iterator[dict[str, Any]]:
        for feature in table.features:
            if region is not None and (feature.geometry is None or not feature.geometry.intersects(region)):
                continue
            if parsed.keeps(feature.properties):
                geometry = mapping(feature.geometry) if feature.geometry is not None else None
                properties = dict(feature.properties)
                yield {"type": "Feature", "id": feature.id, "geometry": geometry, "properties": properties}

    page = list(islice(kept(), start, start + size + 1))
    following = {"nextPageToken": write_token(start + size)} if len(page) > size else {}
    return {"type": "FeatureCollection", "features": page[:size], **following}


def page_size(value: Any, default: int = default_page) -> int:
    """A page size as a positive number; 0, "" and None mean the default. Raises ServiceError 400 otherwise."""
    try:
        size = int(value) if value not in (None, "") else 0
    except (TypeError, ValueError):
        raise invalid(f"Invalid value at 'page_size': {value!r}.") from None
    if size < 0:
        raise invalid(f"Invalid value at 'page_size': {size}.")
    return size or default


def write_token(position: int) -> str:
    """An opaque page token."""
    return base64.urlsafe_b64encode(f"at:{position}".encode()).decode().rstrip("=")


def read_token(token: Any) -> int:
    """The position of a page token ("" and None: 0). Raises ServiceError 400 for anything else."""
    if not token:
        return 0
    try:
        label, position = base64.urlsafe_b64decode(str(token) + "==").decode().split(":")
        if label != "at" or int(position) < 0:
            raise ValueError(token)
        return int(position)
    except (ValueError, UnicodeDecodeError):
        raise invalid(f"Invalid page token '{token}'.") from None
