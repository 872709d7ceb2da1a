"""Pixel requests: parsing grids, the service's size limits, and graphs wrapped with what a request asks on top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from m3etl.emulator.model import Grid, Projection, Raster, invalid

# https://developers.google.com/earth-engine/apidocs/ee-data-computepixels and reports of users who hit them.
max_request_bytes = 50_331_648
max_side_px = 32_768
max_bands = 1_024


class Counting(Protocol):
    """What an evaluation touched; the evaluator fills it in."""

    @property
    def scenes(self) -> int: ...


class Shape(Protocol):
    """What is known of pixels before they are computed: the grid and each band's dtype."""

    @property
    def grid(self) -> Grid: ...

    @property
    def dtypes(self) -> Mapping[str, np.dtype[Any]]: ...


class Evaluating(Protocol):
    """What the server needs of the evaluator. Thread-safe; every method raises ServiceError and notes its usage."""

    def value(self, expression: Mapping[str, Any], *, usage: Any = None) -> Any: ...

    def pixels(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None,
        band_ids: Sequence[str] | None,
        visualization: Mapping[str, Any] | None,
        usage: Any = None,
    ) -> Raster: ...

    def shape(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None,
        band_ids: Sequence[str] | None,
        visualization: Mapping[str, Any] | None,
        usage: Any = None,
    ) -> Shape: ...

    def features(self, expression: Mapping[str, Any], *, usage: Any = None) -> Sequence[dict[str, Any]]: ...

    def images(self, expression: Mapping[str, Any], *, usage: Any = None) -> Sequence[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRequest:
    """A graph that yields an image, and how its pixels are wanted; without a grid the image's own extent."""

    expression: Mapping[str, Any]
    grid: Grid | None = None
    band_ids: tuple[str, ...] | None = None
    visualization: Mapping[str, Any] | None = None

    def evaluate(self, evaluator: Evaluating, usage: Counting, grid: Grid | None = None) -> Raster:
        """The pixels, on `grid` where it is given."""
        return evaluator.pixels(
            self.expression,
            grid=grid or self.grid,
            band_ids=self.band_ids,
            visualization=self.visualization,
            usage=usage,
        )

    def shape(self, evaluator: Evaluating, usage: Counting) -> Shape:
        """Grid and dtypes of what `evaluate` would give, without reading pixels."""
        return evaluator.shape(
            self.expression, grid=self.grid, band_ids=self.band_ids, visualization=self.visualization, usage=usage
        )

    def check(self, evaluator: Evaluating, usage: Counting) -> None:
        """Raises the service's 400 where the pixels would be too large, without reading them."""
        shape = self.shape(evaluator, usage)
        check_limits(shape.grid, list(shape.dtypes.values()))

    @property
    def is_surely_small(self) -> bool:
        """Whether the request fits the limits whatever its bands are, short of hundreds of them."""
        if self.grid is None:
            return False
        bands = 128 if self.band_ids is None else len(self.band_ids)
        return self.grid.width * self.grid.height * bands * 9 <= max_request_bytes


def parse_request(body: Mapping[str, Any], expression: Mapping[str, Any]) -> PixelRequest:
    """The pixel request of a computePixels, getPixels or thumbnails body around `expression`."""
    grid, wrapped = parse_grid(body.get("grid"), expression)
    band_ids = body.get("bandIds") or None
    if band_ids is not None and not (isinstance(band_ids, list) and all(isinstance(item, str) for item in band_ids)):
        raise invalid("Invalid value at 'band_ids': expected a list of strings.")
    visualization = body.get("visualizationOptions")
    if visualization is not None and not isinstance(visualization, dict):
        raise invalid("Invalid value at 'visualization_options': expected an object.")
    return PixelRequest(
        expression=wrapped,
        grid=grid,
        band_ids=tuple(band_ids) if band_ids else None,
        visualization=visualization,
    )


def parse_grid(value: Any, expression: Mapping[str, Any]) -> tuple[Grid | None, Mapping[str, Any]]:
    """A PixelGrid message as a Grid; without dimensions, None and the graph reprojected onto the grid's lattice."""
    if value is None or value == {}:
        return None, expression
    if not isinstance(value, dict):
        raise invalid("Invalid value at 'grid': expected an object.")
    crs = value.get("crsCode") or value.get("crsWkt")
    transform = value.get("affineTransform")
    if not isinstance(crs, str) or not isinstance(transform, dict):
        raise invalid("Pixel grid must specify affineTransform and one of crsCode and crsWkt.")
    terms = [_number(transform.get(name, 0.0), f"grid.affine_transform.{name}") for name in _transform_names]
    if terms[0] * terms[4] - terms[1] * terms[3] == 0.0:
        raise invalid("Pixel grid's affine transform is not invertible.")
    a, b, c, d, e, f = terms
    dimensions = value.get("dimensions")
    if dimensions is None:
        return None, call("Image.reproject", image=expression, crs=crs, crsTransform=[a, b, c, d, e, f])
    if not isinstance(dimensions, dict):
        raise invalid("Invalid value at 'grid.dimensions': expected an object.")
    width = _side(dimensions.get("width"))
    height = _side(dimensions.get("height"))
    return Grid(projection=Projection(crs=crs, transform=(a, b, c, d, e, f)), width=width, height=height), expression


_transform_names = ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")


def call(function: str, /, **arguments: Any) -> dict[str, Any]:
    """A graph that calls `function`; arguments that are graphs themselves are spliced in, others are constants."""
    values: dict[str, Any] = {}
    nodes: dict[str, Any] = {}
    for number, (name, argument) in enumerate(arguments.items()):
        if isinstance(argument, Mapping) and "values" in argument:
            values |= {f"{number}:{key}": _renamed(node, f"{number}:") for key, node in argument["values"].items()}
            nodes[name] = {"valueReference": f"{number}:{argument.get('result', '0')}"}
        else:
            nodes[name] = {"constantValue": argument}
    values["0"] = {"functionInvocationValue": {"functionName": function, "arguments": nodes}}
    return {"result": "0", "values": values}


def _renamed(node: Any, prefix: str) -> Any:
    """A node with its references to other nodes of the graph prefixed. Constants are left alone."""
    if isinstance(node, list):
        return [_renamed(item, prefix) for item in node]
    if not isinstance(node, dict):
        return node
    result: dict[str, Any] = {}
    for key, item in node.items():
        if key in ("valueReference", "functionReference", "body") and isinstance(item, str):
            result[key] = f"{prefix}{item}"
        else:
            result[key] = item if key == "constantValue" else _renamed(item, prefix)
    return result


def check_sides(grid: Grid) -> None:
    """Raises the service's 400 for a grid wider or higher than it serves."""
    if max(grid.width, grid.height) > max_side_px:
        raise invalid(
            f"Pixel grid dimensions ({grid.width}x{grid.height}) must be less than or equal to {max_side_px}."
        )


def check_limits(grid: Grid, dtypes: Sequence[np.dtype[Any]]) -> None:
    """Raises the service's 400 for a response that is too large: each sample counts its bytes and one mask byte."""
    check_sides(grid)
    if len(dtypes) > max_bands:
        raise invalid(f"Number of bands ({len(dtypes)}) must be less than or equal to {max_bands}.")
    total = grid.width * grid.height * sum(dtype.itemsize + 1 for dtype in dtypes)
    if total > max_request_bytes:
        raise invalid(f"Total request size ({total} bytes) must be less than or equal to {max_request_bytes} bytes.")


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"Invalid value at '{name}': expected a number.")
    return float(value)


def _side(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise invalid("Pixel grid dimensions must be positive integers.")
    return value
