"""The discovery document from which google-api-python-client builds its methods, generated from one table.

The table names every v1 method that the Earth Engine client calls, served or not: a method missing here would be an
AttributeError inside the client, while one that is listed but not served is answered with 501 and a message.
"""

from __future__ import annotations

from functools import cache
from typing import Any

# method: (HTTP method, path template below /v1/, query parameters)
_methods: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "projects.listAssets": ("GET", "{+parent}:listAssets", ("filter", "pageSize", "pageToken", "view")),
    "projects.getConfig": ("GET", "{+name}", ()),
    "projects.updateConfig": ("PATCH", "{+name}", ("updateMask",)),
    "projects.algorithms.list": ("GET", "{+parent}/algorithms", ()),
    "projects.assets.get": ("GET", "{+name}", ()),
    "projects.assets.listAssets": ("GET", "{+parent}:listAssets", ("filter", "pageSize", "pageToken", "view")),
    "projects.assets.listFeatures": ("GET", "{+asset}:listFeatures", ("filter", "pageSize", "pageToken", "region")),
    "projects.assets.getPixels": ("POST", "{+name}:getPixels", ()),
    "projects.assets.create": ("POST", "{+parent}/assets", ("assetId",)),
    "projects.assets.copy": ("POST", "{+sourceName}:copy", ()),
    "projects.assets.move": ("POST", "{+sourceName}:move", ()),
    "projects.assets.patch": ("PATCH", "{+name}", ()),
    "projects.assets.delete": ("DELETE", "{+name}", ()),
    "projects.assets.getIamPolicy": ("POST", "{+resource}:getIamPolicy", ()),
    "projects.assets.setIamPolicy": ("POST", "{+resource}:setIamPolicy", ()),
    "projects.assets.testIamPermissions": ("POST", "{+resource}:testIamPermissions", ()),
    "projects.classifier.export": ("POST", "{+project}/classifier:export", ()),
    "projects.featureView.create": ("POST", "{+parent}/featureView", ()),
    "projects.filmstripThumbnails.create": ("POST", "{+parent}/filmstripThumbnails", ()),
    "projects.filmstripThumbnails.getPixels": ("GET", "{+name}:getPixels", ()),
    "projects.image.computePixels": ("POST", "{+project}/image:computePixels", ()),
    "projects.image.export": ("POST", "{+project}/image:export", ()),
    "projects.image.import": ("POST", "{+project}/image:import", ()),
    "projects.image.importExternal": ("POST", "{+project}/image:importExternal", ()),
    "projects.imageCollection.computeImages": ("POST", "{+project}/imageCollection:computeImages", ()),
    "projects.map.export": ("POST", "{+project}/map:export", ()),
    "projects.maps.create": ("POST", "{+parent}/maps", ()),
    "projects.maps.tiles.get": ("GET", "{+parent}/tiles/{zoom}/{x}/{y}", ()),
    "projects.operations.list": ("GET", "{+name}/operations", ("filter", "pageSize", "pageToken")),
    "projects.operations.get": ("GET", "{+name}", ()),
    "projects.operations.cancel": ("POST", "{+name}:cancel", ()),
    "projects.operations.delete": ("DELETE", "{+name}", ()),
    "projects.operations.wait": ("POST", "{+name}:wait", ()),
    "projects.table.computeFeatures": ("POST", "{+project}/table:computeFeatures", ()),
    "projects.table.export": ("POST", "{+project}/table:export", ()),
    "projects.table.import": ("POST", "{+project}/table:import", ()),
    "projects.tables.create": ("POST", "{+parent}/tables", ()),
    "projects.tables.getFeatures": ("GET", "{+name}:getFeatures", ()),
    "projects.thumbnails.create": ("POST", "{+parent}/thumbnails", ()),
    "projects.thumbnails.getPixels": ("GET", "{+name}:getPixels", ()),
    "projects.value.compute": ("POST", "{+project}/value:compute", ()),
    "projects.video.export": ("POST", "{+project}/video:export", ()),
    "projects.videoMap.export": ("POST", "{+project}/videoMap:export", ()),
    "projects.videoThumbnails.create": ("POST", "{+parent}/videoThumbnails", ()),
    "projects.videoThumbnails.getPixels": ("GET", "{+name}:getPixels", ()),
}

# Query parameters of every method (https://cloud.google.com/apis/docs/system-parameters).
_global_parameters = {
    "$.xgafv": "string",
    "access_token": "string",
    "alt": "string",
    "callback": "string",
    "fields": "string",
    "key": "string",
    "oauth_token": "string",
    "prettyPrint": "boolean",
    "quotaUser": "string",
    "uploadType": "string",
    "upload_protocol": "string",
}

# The client follows pages of methods whose response has a nextPageToken.
_paged = {
    "projects.listAssets",
    "projects.assets.listAssets",
    "projects.assets.listFeatures",
    "projects.operations.list",
}


@cache
def discovery_document(root_url: str) -> dict[str, Any]:
    """The discovery document (REST description, v1) of a server at `root_url`, which ends with a slash.

    Source of the form: https://developers.google.com/discovery/v1/reference/apis#resource
    """
    document: dict[str, Any] = {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "earthengine:v1",
        "name": "earthengine",
        "canonicalName": "Earth Engine",
        "version": "v1",
        "title": "Embedded Earth Engine",
        "description": "The part of the Earth Engine REST API v1 that m3etl emulates.",
        "protocol": "rest",
        "rootUrl": root_url,
        "baseUrl": root_url,
        "basePath": "",
        "servicePath": "",
        "batchPath": "batch",
        "fullyEncodeReservedExpansion": True,
        "parameters": {name: {"type": kind, "location": "query"} for name, kind in _global_parameters.items()},
        "schemas": {"Any": {"id": "Any", "type": "any"}, "Page": _page_schema},
        "resources": {},
    }
    for name, (http_method, template, query) in _methods.items():
        *path, method = name.split(".")
        node = document
        for part in path:
            node = node.setdefault("resources", {}).setdefault(part, {})
        node.setdefault("methods", {})[method] = _method(name, http_method, template, query)
    return document


_page_schema = {"id": "Page", "type": "object", "properties": {"nextPageToken": {"type": "string"}}}


def _method(name: str, http_method: str, template: str, query: tuple[str, ...]) -> dict[str, Any]:
    names = [part.split("}")[0] for part in template.split("{")[1:]]
    parameters: dict[str, Any] = {
        part.lstrip("+"): {"type": "string", "location": "path", "required": True} for part in names
    }
    for key in query:
        parameters[key] = {"type": "integer" if key == "pageSize" else "string", "location": "query"}
    method: dict[str, Any] = {
        "id": f"earthengine.{name}",
        "httpMethod": http_method,
        "path": f"v1/{template}",
        "flatPath": f"v1/{template}",
        "parameters": parameters,
        "parameterOrder": [part.lstrip("+") for part in names],
        "response": {"$ref": "Page" if name in _paged else "Any"},
    }
    if http_method in ("POST", "PATCH"):
        method["request"] = {"$ref": "Any"}
    return method
