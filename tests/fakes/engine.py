"""A small evaluator and asset source, so that the transport of the embedded Earth Engine is tested on its own.

The evaluator knows one function per graph: constants evaluate to themselves, `Image.load` of "fake/WxH" is an image of
that size in UTM zone 32N whose bands hold the column, the row and their sum, and other names fail like the service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from shapely.geometry import Point, box

from m3etl.emulator.model import (
    BandInfo,
    CollectionQuery,
    Grid,
    ImageInfo,
    IntArray,
    PixelType,
    Projection,
    Raster,
    Samples,
    SourceTable,
    TableFeature,
    invalid,
)

day_ms = 86_400_000
home = Projection(crs="EPSG:32632", transform=(10.0, 0.0, 400_000.0, 0.0, -10.0, 5_000_000.0))
dtypes = {"column": "uint16", "row": "uint16", "sum": "float32"}


def root(expression: Mapping[str, Any]) -> dict[str, Any]:
    """The node that a graph evaluates to."""
    node = expression["values"][expression["result"]]
    assert isinstance(node, dict)
    return node


@dataclass
class FakeUsage:
    """What an evaluation touched."""

    scenes: int = 0


@dataclass(frozen=True)
class FakeShape:
    """Grid and dtypes of an image."""

    grid: Grid
    dtypes: Mapping[str, np.dtype[Any]]


class FakeEvaluator:
    """Answers the graphs named above; counts calls, can be slow, and can wait until it is released."""

    def __init__(self, *, seconds: float = 0.0, uniform: bool = False) -> None:
        self.seconds = seconds
        self.calls: list[str] = []
        self.most_at_once = 0
        self.released = threading.Event()
        self.released.set()
        self._at_once = 0
        self._lock = threading.Lock()
        self.dtypes = dict.fromkeys(dtypes, "float32") if uniform else dtypes

    def _work(self, kind: str) -> None:
        with self._lock:
            self.calls.append(kind)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self.seconds)
        self.released.wait()
        with self._lock:
            self._at_once -= 1

    def _load(self, expression: Mapping[str, Any]) -> tuple[int, int]:
        arguments = root(expression).get("functionInvocationValue", {}).get("arguments", {})
        name = arguments.get("id", {}).get("constantValue", "")
        if not name.startswith("fake/"):
            raise invalid(
                f"Image.load: Image asset '{name}' not found (does not exist or caller does not have access)."
            )
        width, height = name.removeprefix("fake/").split("x")
        return int(width), int(height)

    def value(self, expression: Mapping[str, Any], *, usage: Any = None) -> Any:
        node = root(expression)
        if "constantValue" in node:
            if node["constantValue"] == "crash":
                raise KeyError("a bug")
            self._work("value")
            return node["constantValue"]
        width, height = self._load(expression)
        transform = list(home.transform)
        kinds = {"uint16": {"precision": "int", "min": 0, "max": 65535}, "float32": {"precision": "float"}}
        bands = [
            {
                "id": band,
                "data_type": {"type": "PixelType", **kinds[self.dtypes[band]]},
                "dimensions": [width, height],
                "crs": home.crs,
                "crs_transform": transform,
            }
            for band in self.dtypes
        ]
        return {"type": "Image", "id": f"fake/{width}x{height}", "bands": bands, "properties": {}}

    def pixels(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None,
        band_ids: Sequence[str] | None,
        visualization: Mapping[str, Any] | None,
        usage: Any = None,
    ) -> Raster:
        width, height = self._load(expression)
        self._work("pixels")
        if usage is not None:
            usage.scenes += 1
        grid = grid or Grid(projection=home, width=width, height=height)
        a, _, c, _, e, f = grid.projection.transform
        column = np.round((c - home.transform[2]) / 10.0 + np.arange(grid.width) * a / 10.0).astype(np.int64)
        row = np.round((home.transform[5] - f) / 10.0 - np.arange(grid.height) * e / 10.0).astype(np.int64)
        columns, rows = np.meshgrid(column, row)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        inside &= (columns != 1) | (rows != 1)
        values = {"column": columns, "row": rows, "sum": columns + rows}
        names = list(band_ids) if band_ids is not None else list(self.dtypes)
        if visualization is not None:
            names = ["column", "row", "sum"]
        kinds = dict.fromkeys(values, "uint8") if visualization is not None else self.dtypes
        return Raster(
            grid=grid,
            bands={name: np.where(inside, values[name], 7).astype(kinds[name]) for name in names},
            valid=dict.fromkeys(names, inside),
        )

    def shape(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None,
        band_ids: Sequence[str] | None,
        visualization: Mapping[str, Any] | None,
        usage: Any = None,
    ) -> FakeShape:
        width, height = self._load(expression)
        names = list(band_ids) if band_ids is not None else list(self.dtypes)
        kinds = dict.fromkeys(self.dtypes, "uint8") if visualization is not None else self.dtypes
        return FakeShape(
            grid=grid or Grid(projection=home, width=width, height=height),
            dtypes={name: np.dtype(kinds[name]) for name in names},
        )

    def features(self, expression: Mapping[str, Any], *, usage: Any = None) -> Sequence[dict[str, Any]]:
        self._work("features")
        count = root(expression).get("constantValue")
        if not isinstance(count, int):
            raise invalid("Expected a feature collection.")
        return [
            {
                "type": "Feature",
                "id": str(index),
                "geometry": {"type": "Point", "coordinates": [index, 45]},
                "properties": {"number": index, "label": f"n{index}"},
            }
            for index in range(count)
        ]

    def images(self, expression: Mapping[str, Any], *, usage: Any = None) -> Sequence[dict[str, Any]]:
        self._work("images")
        return [{"type": "IMAGE", "id": f"fake/{index}"} for index in range(int(root(expression)["constantValue"]))]


class FakeImage:
    """An image of the fake collection; it has no pixels."""

    def __init__(self, index: int) -> None:
        footprint = box(index, 40.0, index + 1.0, 41.0)
        properties = {"system:index": f"d{index:03d}", "system:time_start": index * day_ms, "CLOUD": float(index % 10)}
        band = BandInfo(id="B1", pixel_type=PixelType.of("uint16"), projection=home, dimensions=(100, 100))
        self.info = ImageInfo(id=f"FAKE/DAILY/d{index:03d}", bands=(band,), properties=properties, footprint=footprint)

    def sample(self, bands: Sequence[str], column: IntArray, row: IntArray) -> Samples:
        raise AssertionError("listing reads no pixels")


class FakeCollection:
    """60 images, one a day from the epoch, each one degree further east."""

    id = "FAKE/DAILY"
    properties: Mapping[str, Any] = {"title": "Daily"}

    def __init__(self) -> None:
        self.queries: list[CollectionQuery] = []

    def find(self, query: CollectionQuery) -> Iterator[FakeImage]:
        self.queries.append(query)
        for index in range(60):
            image = FakeImage(index)
            time_ms = index * day_ms
            if query.start_ms is not None and time_ms < query.start_ms:
                continue
            if query.end_ms is not None and time_ms >= query.end_ms:
                continue
            if query.region is not None and not image.info.footprint.intersects(query.region):
                continue
            yield image


class FakeAssets:
    """A folder FAKE with the collection FAKE/DAILY and the table FAKE/TABLE."""

    def __init__(self) -> None:
        self.daily = FakeCollection()

    def image(self, asset_id: str) -> FakeImage | None:
        head, _, index = asset_id.rpartition("/d")
        return FakeImage(int(index)) if head == "FAKE/DAILY" and index.isdecimal() and int(index) < 60 else None

    def collection(self, asset_id: str) -> FakeCollection | None:
        return self.daily if asset_id == "FAKE/DAILY" else None

    def table(self, asset_id: str) -> SourceTable | None:
        if asset_id != "FAKE/TABLE":
            return None
        features = tuple(
            TableFeature(geometry=Point(index, index), properties={"n": index}, id=str(index)) for index in range(5)
        )
        return SourceTable(id=asset_id, features=features)

    def list_ids(self, parent: str) -> Sequence[tuple[str, str]]:
        return [("FAKE/DAILY", "IMAGE_COLLECTION"), ("FAKE/TABLE", "TABLE")] if parent == "FAKE" else []


def fake_asset_json(info: ImageInfo) -> dict[str, Any]:
    """An EarthEngineAsset with the few fields that the tests look at."""
    return {
        "type": "IMAGE",
        "name": f"projects/earthengine-public/assets/{info.id}",
        "id": info.id,
        "properties": dict(info.properties),
    }


def constant(value: Any) -> dict[str, Any]:
    """The graph of a constant."""
    return {"result": "0", "values": {"0": {"constantValue": value}}}


def load(width: int, height: int) -> dict[str, Any]:
    """The graph of a fake image."""
    node = {"functionName": "Image.load", "arguments": {"id": {"constantValue": f"fake/{width}x{height}"}}}
    return {"result": "0", "values": {"0": {"functionInvocationValue": node}}}
