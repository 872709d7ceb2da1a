"""GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED: how clear each pixel of a Sentinel-2 granule is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo
from m3etl.emulator.planet.clouds import sky
from m3etl.emulator.planet.frames import Request
from m3etl.emulator.planet.granules import Granule, find_granules, granule_of
from m3etl.emulator.planet.imagery import FLOAT, Painted, PlanetImage
from m3etl.emulator.planet.sentinel2 import tile_bands


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudScoreCollection:
    """Cloud Score+: `cs` and `cs_cdf`, 0 (cloud) to 1 (clear), on the tiles and under the indices of Sentinel-2."""

    id: str = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        for granule in find_granules(query):
            yield self._image(granule)

    def image(self, index: str) -> PlanetImage | None:
        granule = granule_of(index)
        return None if granule is None else self._image(granule)

    def _image(self, granule: Granule) -> PlanetImage:
        return PlanetImage(lambda: self._info(granule), lambda bands, request: _paint(granule, bands, request))

    def _info(self, granule: Granule) -> ImageInfo:
        grid = tile_bands(granule)["B2"]
        return ImageInfo(
            id=f"{self.id}/{granule.index}",
            bands=tuple(
                BandInfo(id=name, pixel_type=FLOAT, projection=grid.projection, dimensions=grid.dimensions)
                for name in ("cs", "cs_cdf")
            ),
            properties={
                "system:index": granule.index,
                "system:time_start": granule.time_ms,
                "synthetic": True,
                "MGRS_TILE": granule.tile.name,
            },
            footprint=granule.coverage.footprint,
        )


def _paint(granule: Granule, bands: tuple[str, ...], request: Request) -> Painted:
    above = sky(request.frame, granule.overpass)
    valid = granule.coverage.inside(request.column, request.row, 10.0)
    clear = 1.0 - np.minimum(1.0, above.cloud * 1.05 + 0.55 * above.shadow + 0.9 * above.cirrus)
    score = (0.02 + 0.96 * clear).astype(np.float32)
    layers = {"cs": score, "cs_cdf": (score * score * (3.0 - 2.0 * score)).astype(np.float32)}
    return {name: (layers[name], valid) for name in bands}
