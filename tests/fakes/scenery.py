"""Earth Engine assets made of functions of metres, served to the real client by the embedded server in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import Transformer
from shapely import Polygon, box, intersects

from m3etl.emulator.evaluate import Evaluator, asset_json
from m3etl.emulator.faults import parse_faults
from m3etl.emulator.model import (
    BandInfo,
    CollectionQuery,
    ImageInfo,
    PixelType,
    Projection,
    Samples,
    SourceTable,
)
from m3etl.emulator.server import running
from m3etl.emulator.service import Service
from m3etl.emulator.work import Workers
from m3etl.io.earthengine import Session, open_session

Function = Callable[[Any, Any], Any]
epsg = 32632
left, top = 500_000.0, 5_300_000.0


@dataclass
class Scene:
    """An image in UTM zone 32N: bands are (dtype, function of x and y in metres, NaN where masked); bounds in
    metres.
    """

    id: str
    bands: Mapping[str, tuple[str, Function]]
    time_ms: float | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    bounds: tuple[float, float, float, float] | None = (left - 5000, top - 5000, left + 5000, top + 5000)
    pixel_m: float = 10.0
    shift_m: float = 3.0
    license: str = "synthetic"

    @property
    def info(self) -> ImageInfo:
        index = self.id.rpartition("/")[2]
        projection = Projection(crs=f"EPSG:{epsg}", transform=self._transform())
        properties: dict[str, Any] = {"system:index": index, "synthetic": True, **self.properties}
        if self.time_ms is not None:
            properties["system:time_start"] = self.time_ms
        return ImageInfo(
            id=self.id,
            bands=tuple(
                BandInfo(id=name, pixel_type=PixelType.of(dtype), projection=projection)
                for name, (dtype, _) in self.bands.items()
            ),
            properties=properties,
            footprint=None if self.bounds is None else _lonlat(self.bounds),
            license=self.license,
        )

    def _transform(self) -> tuple[float, ...]:
        return (self.pixel_m, 0.0, left - 6000 + self.shift_m, 0.0, -self.pixel_m, top + 6000 - self.shift_m)

    def sample(self, bands: Sequence[str], column: Any, row: Any) -> Samples:
        a, _, c, _, e, f = self._transform()
        x, y = a * (column + 0.5) + c, e * (row + 0.5) + f
        inside = np.ones(x.shape, bool)
        if self.bounds is not None:
            west, south, east, north = self.bounds
            inside = (x >= west) & (x < east) & (y >= south) & (y < north)
        found = {}
        for name in bands:
            dtype, function = self.bands[name]
            values = np.broadcast_to(np.asarray(function(x, y), dtype=float), x.shape)
            valid = inside & np.isfinite(values)
            found[name] = (np.where(valid, values, 0).astype(dtype), valid)
        return found


def _lonlat(bounds: tuple[float, float, float, float]) -> Any:
    to_lonlat = Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True)
    x, y = np.array(box(*bounds).exterior.coords).T
    return Polygon(np.stack(to_lonlat.transform(x, y), axis=1))


@dataclass
class Collection:
    """The scenes whose id begins with the collection's."""

    id: str
    scenes: Sequence[Scene]
    properties: Mapping[str, Any] = field(default_factory=dict)

    def find(self, query: CollectionQuery) -> Iterator[Scene]:
        for scene in sorted(self.scenes, key=lambda item: (item.time_ms or 0, item.id)):
            info, start = scene.info, scene.time_ms or 0
            if query.region is not None and info.footprint is not None and not intersects(info.footprint, query.region):
                continue
            if query.start_ms is not None and start < query.start_ms:
                continue
            if query.end_ms is not None and start >= query.end_ms:
                continue
            if query.index is not None and info.properties["system:index"] != query.index:
                continue
            yield scene


@dataclass
class Scenery:
    """An asset source of scenes; the named collections exist even when they are empty."""

    scenes: Sequence[Scene]
    collections: Sequence[str] = (
        "COPERNICUS/S2_SR_HARMONIZED",
        "COPERNICUS/S2_HARMONIZED",
        "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED",
        "COPERNICUS/S1_GRD",
        "GOOGLE/DYNAMICWORLD/V1",
        "ESA/WorldCover/v100",
        "OPERA/RTC/L2_V1/S1",
        "ECMWF/ERA5_LAND/MONTHLY_AGGR",
    )

    def image(self, asset_id: str) -> Scene | None:
        return next((scene for scene in self.scenes if scene.id == asset_id), None)

    def collection(self, asset_id: str) -> Collection | None:
        if asset_id not in self.collections:
            return None
        return Collection(asset_id, [scene for scene in self.scenes if scene.id.rpartition("/")[0] == asset_id])

    def table(self, asset_id: str) -> SourceTable | None:
        return None

    def list_ids(self, parent: str) -> Sequence[tuple[str, str]]:
        return []


@contextmanager
def session_over(scenes: Sequence[Scene], state_dir: Path, *, faults: Any = None) -> Iterator[Session]:
    """The real client connected to a server of these scenes."""
    assets = Scenery(scenes)
    service = Service(
        state_dir=state_dir,
        open_assets=lambda: assets,
        make_evaluator=Evaluator,
        asset_json=asset_json,
        workers=Workers(2),
    )
    plan = parse_faults(faults) if faults is not None else None
    with running(service, plan=plan) as server:
        host, port = server.server_address[:2]
        with open_session(url=f"http://{host!s}:{port}", project="") as session:
            yield session
