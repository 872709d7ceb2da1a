"""Which request is answered by what: the REST methods of Earth Engine v1 over a Service."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from m3etl.emulator import encode, listing, tables
from m3etl.emulator.discovery import discovery_document
from m3etl.emulator.messages import Account, Request, Response, error_response, json_response
from m3etl.emulator.model import Grid, Projection, Raster, invalid, not_found
from m3etl.emulator.pixels import (
    Counting,
    Evaluating,
    PixelRequest,
    call,
    check_limits,
    check_sides,
    parse_request,
)
from m3etl.emulator.service import Service

Handler = Callable[[Service, Request, Mapping[str, str]], Response]

profile_request_header = "x-earth-engine-computation-profiling"
profile_response_header = "x-earth-engine-computation-profile"
# Half the circumference of the web map's sphere in metres (EPSG:3857).
_half_world_m = 20_037_508.342789244
_tile_px = 256


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    path: re.Pattern[str]
    handler: Handler


_routes: list[_Route] = []


def _route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Registers a handler; `{name}` stands for one path segment, `{name+}` for one or more, without colons."""
    pattern = re.sub(r"\{(\w+)\+\}", r"(?P<\1>[^:]+)", path)
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", pattern.replace("$", r"\$"))

    def register(handler: Handler) -> Handler:
        _routes.append(_Route(method, re.compile(pattern), handler))
        return handler

    return register


def dispatch(service: Service, request: Request) -> Response:
    """The answer to a request. Raises ServiceError for everything that the service answers with an error."""
    for route in _routes:
        match = route.path.fullmatch(request.path) if route.method == request.method else None
        if match is not None:
            return _profiled(service, request, route.handler(service, request, match.groupdict()))
    stored = service.buckets.handle(request, _root_url(request))
    if stored is not None:
        return stored
    if _unserved.fullmatch(request.path):
        return error_response(501, f"{request.method} {request.path} is not served by the embedded Earth Engine.")
    raise not_found(f"Method not found: {request.method} {request.path}")


# Methods of the real service that the discovery document names and nothing here answers.
_unserved = re.compile(
    r"/v1/projects/[^/]+/(?:assets(?:/.*|:search)?|(?:image|table):import(?:External)?"
    r"|(?:map|video|videoMap|classifier):export|(?:video|filmstrip)Thumbnails(?:/.*)?|featureView(?:/.*)?)"
)


def _profiled(service: Service, request: Request, response: Response) -> Response:
    if profile_request_header not in request.headers:
        return response
    description = f"Embedded evaluation: {request.path.rsplit('/', 1)[-1]}"
    identifier = service.add_profile(description, request.account)
    headers = {**response.headers, profile_response_header: identifier}
    return Response(status=response.status, body=response.body, content_type=response.content_type, headers=headers)


def _root_url(request: Request) -> str:
    return f"http://{request.headers.get('host', '127.0.0.1')}/"


@_route("GET", "/$discovery/rest")
def _discovery(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    version = request.query.get("version", "v1")
    if version != "v1":
        raise not_found(f"Version {version} of the API is not served; v1 is.")
    return json_response(discovery_document(_root_url(request)))


@_route("GET", "/v1/projects/{project}/algorithms")
def _algorithms(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    return Response(body=_algorithms_json())


@cache
def _algorithms_json() -> bytes:
    from m3etl.emulator.signatures import load_signatures

    return json.dumps({"algorithms": load_signatures()}, separators=(",", ":")).encode()


@_route("GET", "/v1/projects/{project}/config")
def _config(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    name = f"projects/{parts['project']}/config"
    return json_response({"name": name, "maxConcurrentExports": service.operations.max_running})


@_route("PATCH", "/v1/projects/{project}/config")
def _update_config(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    wanted = request.json().get("maxConcurrentExports")
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= 100:
        raise invalid(f"Invalid value at 'max_concurrent_exports': {wanted!r}.")
    service.operations.max_running = wanted
    return _config(service, request, parts)


@_route("POST", "/v1/projects/{project}/value:compute")
def _compute_value(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    expression = _expression(request.json())
    profiles = _profile_call(expression)
    if profiles is not None:
        return json_response({"result": service.describe_profiles(*profiles)})
    value = service.work(request.account, lambda evaluator, usage: evaluator.value(expression, usage=usage))
    return json_response({"result": value})


@_route("POST", "/v1/projects/{project}/image:computePixels")
def _compute_pixels(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = request.json()
    return _render(service, request, parse_request(body, _expression(body)), body)


@_route("POST", "/v1/{name+}:getPixels")
def _get_asset_pixels(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = request.json()
    identifier = listing.asset_id(parts["name"])
    if service.assets.image(identifier) is None:
        raise not_found(f"Asset '{identifier}' not found (does not exist or caller does not have access).")
    expression: Mapping[str, Any] = call("Image.load", id=identifier)
    if body.get("region") and not body.get("grid"):
        region = body["region"] if isinstance(body["region"], dict) else json.loads(body["region"])
        expression = call("Image.clipToBoundsAndScale", input=expression, geometry=region)
    return _render(service, request, parse_request(body, expression), body)


def _render(service: Service, request: Request, pixels: PixelRequest, body: Mapping[str, Any]) -> Response:
    """Evaluates and encodes pixels within the limits."""
    file_format = encode.check_format(str(body.get("fileFormat") or ""))
    name = str(body.get("filenamePrefix") or "download")

    def work(evaluator: Evaluating, usage: Counting) -> tuple[bytes, str]:
        raster = _evaluate(evaluator, usage, request.account, pixels)
        return encode.encode_raster(raster, file_format, name=name)

    data, media_type = service.work(request.account, work)
    suffix = encode.suffixes.get(file_format, ".zip" if file_format.startswith("ZIPPED") else "")
    headers = {"Content-Disposition": f'attachment; filename="{_header_safe(name)}{suffix}"'}
    return Response(body=data, content_type=media_type, headers=headers)


def _evaluate(evaluator: Evaluating, usage: Counting, account: Account, pixels: PixelRequest) -> Raster:
    if pixels.grid is not None:
        check_sides(pixels.grid)
    if not pixels.is_surely_small:
        pixels.check(evaluator, usage)
    raster = pixels.evaluate(evaluator, usage)
    check_limits(raster.grid, [values.dtype for values in raster.bands.values()])
    account.bands += len(raster.bands)
    account.nbytes += sum(values.nbytes for values in raster.bands.values())
    return raster


def _header_safe(name: str) -> str:
    return re.sub(r"[^\w.\- ]", "_", name, flags=re.ASCII)


@_route("POST", "/v1/projects/{project}/thumbnails")
def _create_thumbnail(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    """Keeps the request and gives its name. Requests that are too large are refused here, not when fetched."""
    body = request.json()
    encode.check_format(str(body.get("fileFormat") or ""))
    pixels = parse_request(body, _expression(body))
    service.work(request.account, pixels.check)
    return json_response({"name": service.remember("thumbnails", parts["project"], body)})


@_route("GET", "/v1/projects/{project}/thumbnails/{id}:getPixels")
def _get_thumbnail(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = _remembered(service, request.path)
    return _render(service, request, parse_request(body, _expression(body)), body)


@_route("POST", "/v1/projects/{project}/maps")
def _create_map(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = request.json()
    _expression(body)
    return json_response({"name": service.remember("maps", parts["project"], body)})


@_route("GET", "/v1/{name+}/tiles/{zoom}/{x}/{y}")
def _get_tile(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = _remembered(service, f"/v1/{parts['name']}")
    numbers = (parts["zoom"], parts["x"], parts["y"])
    if not all(number.isdecimal() for number in numbers) or int(parts["zoom"]) > 24:
        raise invalid(f"Invalid tile {'/'.join(numbers)}.")
    zoom, x, y = map(int, numbers)
    side = 2 * _half_world_m / 2**zoom
    pixel = side / _tile_px
    transform = (pixel, 0.0, x * side - _half_world_m, 0.0, -pixel, _half_world_m - y * side)
    grid = Grid(projection=Projection(crs="EPSG:3857", transform=transform), width=_tile_px, height=_tile_px)
    asked = parse_request(body, _expression(body))
    pixels = PixelRequest(
        expression=asked.expression, grid=grid, band_ids=asked.band_ids, visualization=asked.visualization
    )
    return _render(service, request, pixels, {"fileFormat": body.get("fileFormat")})


@_route("POST", "/v1/projects/{project}/table:computeFeatures")
def _compute_features(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = request.json()
    expression = _expression(body)
    page = _page(service, request, body, lambda evaluator, usage: evaluator.features(expression, usage=usage))
    return json_response({"type": "FeatureCollection", "features": page.pop("items"), **page})


@_route("POST", "/v1/projects/{project}/imageCollection:computeImages")
def _compute_images(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = request.json()
    expression = _expression(body)
    page = _page(service, request, body, lambda evaluator, usage: evaluator.images(expression, usage=usage))
    return json_response({"images": page.pop("items"), **page})


def _page(
    service: Service,
    request: Request,
    body: Mapping[str, Any],
    compute: Callable[[Evaluating, Counting], Sequence[dict[str, Any]]],
) -> dict[str, Any]:
    """One page of a computed list; the whole list is kept while a client goes through its pages."""
    start = listing.read_token(body.get("pageToken"))
    size = listing.page_size(body.get("pageSize"))
    graph = json.dumps(body["expression"], sort_keys=True)
    key = hashlib.sha256(f"{request.path}\n{graph}".encode()).hexdigest()
    items = service.pages.get(key) if start else None
    if items is None:
        items = service.work(request.account, compute)
    if start + size >= len(items):
        return {"items": list(items[start:])}
    service.pages.put(key, items)
    return {"items": list(items[start : start + size]), "nextPageToken": listing.write_token(start + size)}


@_route("POST", "/v1/projects/{project}/tables")
def _create_table(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = request.json()
    _expression(body)
    tables.check_format(str(body.get("fileFormat") or ""))
    return json_response({"name": service.remember("tables", parts["project"], body)})


@_route("GET", "/v1/projects/{project}/tables/{id}:getFeatures")
def _get_table(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    body = _remembered(service, request.path)
    expression = _expression(body)
    file_format = tables.check_format(str(body.get("fileFormat") or ""))
    name = str(body.get("filename") or "table")

    def work(evaluator: Evaluating, usage: Counting) -> bytes:
        features = evaluator.features(expression, usage=usage)
        return tables.encode_table(features, file_format, body.get("selectors"), name)

    data = service.work(request.account, work)
    headers = {"Content-Disposition": f'attachment; filename="{_header_safe(name)}{tables.suffixes[file_format]}"'}
    return Response(body=data, content_type=tables.media_types[file_format], headers=headers)


@_route("POST", "/v1/projects/{project}/image:export")
def _export_image(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    return _export(service, parts["project"], "EXPORT_IMAGE", request.json())


@_route("POST", "/v1/projects/{project}/table:export")
def _export_table(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    return _export(service, parts["project"], "EXPORT_FEATURES", request.json())


def _export(service: Service, project: str, kind: str, body: Mapping[str, Any]) -> Response:
    service.exporter.check(kind, body)
    return json_response(service.operations.submit(project, kind, body).resource())


@_route("GET", "/v1/projects/{project}/operations")
def _list_operations(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    operations = service.operations.of_project(parts["project"])
    start = listing.read_token(request.query.get("pageToken"))
    size = listing.page_size(request.query.get("pageSize"))
    following = {"nextPageToken": listing.write_token(start + size)} if start + size < len(operations) else {}
    return json_response({"operations": [item.resource() for item in operations[start : start + size]], **following})


@_route("GET", "/v1/projects/{project}/operations/{id}")
def _get_operation(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    return json_response(service.operations.get(parts["id"]).resource())


@_route("POST", "/v1/projects/{project}/operations/{id}:cancel")
def _cancel_operation(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    service.operations.cancel(parts["id"])
    return json_response({})


@_route("DELETE", "/v1/projects/{project}/operations/{id}")
def _delete_operation(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    service.operations.delete(parts["id"])
    return json_response({})


@_route("POST", "/v1/projects/{project}/operations/{id}:wait")
def _wait_operation(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    text = str(request.json().get("timeout") or "60s").removesuffix("s")
    try:
        timeout_s = min(60.0, max(0.0, float(text)))
    except ValueError:
        raise invalid(f"Invalid value at 'timeout': '{text}'.") from None
    return json_response(service.operations.wait(parts["id"], timeout_s).resource())


@_route("GET", "/v1/{name+}:listAssets")
def _list_assets(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    return json_response(listing.list_assets(service.assets, parts["name"], request.query, service.asset_json))


@_route("GET", "/v1/{name+}:listFeatures")
def _list_features(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    return json_response(listing.list_features(service.assets, parts["name"], request.query))


@_route("GET", "/v1/projects/{project}/assets/{id+}")
def _get_asset(service: Service, request: Request, parts: Mapping[str, str]) -> Response:
    name = f"projects/{parts['project']}/assets/{parts['id']}"
    return json_response(listing.describe_asset(service.assets, name, service.asset_json))


def _expression(body: Mapping[str, Any]) -> Mapping[str, Any]:
    expression = body.get("expression")
    if not isinstance(expression, dict):
        raise invalid("Invalid value at 'expression': required.")
    return expression


def _remembered(service: Service, path: str) -> Mapping[str, Any]:
    name = path.removeprefix("/v1/").partition(":")[0]
    body = service.requests.get(name)
    if body is None:
        raise not_found(f"{name} not found.")
    return body


def _profile_call(expression: Mapping[str, Any]) -> tuple[list[str], str] | None:
    """The ids and format of a call of Profile.getProfiles, which concerns the server and not the assets."""
    values = expression.get("values")
    node = values.get(str(expression.get("result"))) if isinstance(values, dict) else None
    invocation = node.get("functionInvocationValue") if isinstance(node, dict) else None
    if not isinstance(invocation, dict) or invocation.get("functionName") != "Profile.getProfiles":
        return None
    arguments = invocation.get("arguments") or {}
    ids = arguments.get("ids", {}).get("constantValue", [])
    return [str(item) for item in ids], str(arguments.get("format", {}).get("constantValue") or "text")
