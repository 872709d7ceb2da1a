"""A tiny asset source whose every pixel is known: band k of an image with number n is 1000 n + 100 k + column % 10 +
10 (row % 10).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.model import (
    BandInfo,
    CollectionQuery,
    ImageInfo,
    IntArray,
    PixelType,
    Projection,
    Samples,
    SourceImage,
    SourceTable,
    TableFeature,
)

UTM = Projection(crs="EPSG:32632", transform=(10.0, 0.0, 600000.0, 0.0, -10.0, 5200000.0))
UTM20 = Projection(crs="EPSG:32632", transform=(20.0, 0.0, 600000.0, 0.0, -20.0, 5200000.0))
DEGREES = Projection(crs="EPSG:4326", transform=(0.001, 0.0, 10.0, 0.0, -0.001, 47.0))
SIZE = 200  # pixels a side of the 10 m bands
JUNE_1 = 1590969600000.0  # 2020-06-01T00:00:00Z
DAY = 86_400_000.0
# Lon/lat of a place well inside every UTM image: pixel (100, 100), easting 601005, northing 5198995.
INSIDE = (10.326945, 46.936840)


def known(number: int, band: int, column: Any, row: Any) -> Any:
    """The value of a pixel."""
    return 1000 * number + 100 * band + np.asarray(column) % 10 + 10 * (np.asarray(row) % 10)


@dataclass
class KnownImage:
    """An image with bands of known values; `hole` masks columns [0, hole)."""

    info: ImageInfo
    number: int
    hole: int = 0
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def sample(self, bands: Sequence[str], column: IntArray, row: IntArray) -> Samples:
        self.calls.append(tuple(bands))
        result: Samples = {}
        order = [band.id for band in self.info.bands]
        for name in bands:
            position = order.index(name)
            band = self.info.bands[position]
            assert band.dimensions is not None
            width, height = band.dimensions
            valid = (column >= self.hole) & (column < width) & (row >= 0) & (row < height)
            values = known(self.number, position, column, row).astype(band.pixel_type.dtype)
            result[name] = (values, valid)
        return result


def utm_footprint(projection: Projection = UTM, size: int = SIZE) -> BaseGeometry:
    from pyproj import Transformer

    a, _, c, _, e, f = projection.transform
    box = shapely.box(c, f + e * size, c + a * size, f)
    to = Transformer.from_crs(projection.crs, "EPSG:4326", always_xy=True)
    return shapely.transform(box, lambda xy: np.column_stack(to.transform(xy[:, 0], xy[:, 1])))


def make_image(
    asset_id: str,
    number: int,
    *,
    start: float = JUNE_1,
    bands: Sequence[BandInfo] | None = None,
    hole: int = 0,
    footprint: BaseGeometry | None = None,
    **properties: Any,
) -> KnownImage:
    if bands is None:
        byte, short = PixelType.of("uint8"), PixelType.of("uint16")
        bands = [
            BandInfo(id="B2", pixel_type=short, projection=UTM, dimensions=(SIZE, SIZE)),
            BandInfo(id="B3", pixel_type=short, projection=UTM, dimensions=(SIZE, SIZE)),
            BandInfo(id="B11", pixel_type=short, projection=UTM20, dimensions=(SIZE // 2, SIZE // 2)),
            BandInfo(id="SCL", pixel_type=byte, projection=UTM20, dimensions=(SIZE // 2, SIZE // 2)),
        ]
        bands = list(bands)
    info = ImageInfo(
        id=asset_id,
        bands=tuple(bands),
        properties={"system:index": asset_id.rsplit("/", 1)[-1], "system:time_start": start, **properties},
        footprint=utm_footprint() if footprint is None else footprint,
    )
    return KnownImage(info=info, number=number, hole=hole)


@dataclass
class KnownCollection:
    id: str
    images: list[KnownImage]
    properties: Mapping[str, Any] = field(default_factory=dict)
    queries: list[CollectionQuery] = field(default_factory=list)
    produced: int = 0

    def find(self, query: CollectionQuery) -> Iterator[SourceImage]:
        self.queries.append(query)
        for image in self.images:
            start = image.info.properties["system:time_start"]
            footprint = image.info.footprint
            if query.index is not None and image.info.properties["system:index"] != query.index:
                continue
            if query.start_ms is not None and start < query.start_ms:
                continue
            if query.end_ms is not None and start >= query.end_ms:
                continue
            if query.region is not None and footprint is not None and not shapely.intersects(footprint, query.region):
                continue
            self.produced += 1
            yield image


class KnownAssets:
    """Collection `S2` of four images in June 2020, an elevation `DEM` in degrees, `TABLE` of two squares."""

    def __init__(self) -> None:
        self.s2 = KnownCollection(
            id="S2",
            images=[
                make_image(
                    f"S2/i{n}", n, start=JUNE_1 + n * 5 * DAY, CLOUD=40.0 - 10 * n, ORBIT="ASC" if n % 2 else "DESC"
                )
                for n in range(1, 5)
            ],
        )
        self.s2.images[3].hole = 50
        elevation = BandInfo(
            id="elevation", pixel_type=PixelType.of("int16"), projection=DEGREES, dimensions=(1000, 1000)
        )
        self.dem = make_image("DEM", 0, bands=[elevation], footprint=shapely.box(10, 46, 11, 47))
        self.table_asset = SourceTable(
            id="TABLE",
            features=(
                TableFeature(geometry=shapely.box(10, 46.5, 10.5, 47), properties={"NAME": "west", "NUM": 1}, id="0"),
                TableFeature(geometry=shapely.box(10.5, 46.5, 11, 47), properties={"NAME": "east", "NUM": 2}, id="1"),
            ),
        )

    def image(self, asset_id: str) -> SourceImage | None:
        for image in [*self.s2.images, self.dem]:
            if image.info.id == asset_id:
                return image
        return None

    def collection(self, asset_id: str) -> KnownCollection | None:
        return self.s2 if asset_id == "S2" else None

    def table(self, asset_id: str) -> SourceTable | None:
        return self.table_asset if asset_id == "TABLE" else None

    def list_ids(self, parent: str) -> Sequence[tuple[str, str]]:
        return []
