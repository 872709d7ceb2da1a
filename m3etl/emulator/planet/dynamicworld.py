"""GOOGLE/DYNAMICWORLD/V1: probabilities of nine classes for every Sentinel-2 granule that is not too cloudy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo
from m3etl.emulator.planet.clouds import sky
from m3etl.emulator.planet.frames import Frame, Request, octave_sum
from m3etl.emulator.planet.granules import Granule, find_granules, granule_of
from m3etl.emulator.planet.imagery import FLOAT, UINT8, Painted, PlanetImage
from m3etl.emulator.planet.landcover import Bytes, ground, today
from m3etl.emulator.planet.noise import Singles
from m3etl.emulator.planet.sentinel2 import tile_bands

CLASSES = (
    "water", "trees", "grass", "flooded_vegetation", "crops", "shrub_and_scrub", "built", "bare", "snow_and_ice"
)  # fmt: skip
_MOST_CLOUD = 35.0
_LIKELY = np.array(
    # rows: our classes in the order of `Cover`; columns: `CLASSES`
    [
        [0.93, 0.01, 0.01, 0.02, 0.01, 0.01, 0.01, 0.02, 0.01],
        [0.01, 0.84, 0.03, 0.02, 0.02, 0.05, 0.01, 0.01, 0.01],
        [0.01, 0.10, 0.10, 0.02, 0.04, 0.64, 0.02, 0.06, 0.01],
        [0.01, 0.04, 0.66, 0.03, 0.10, 0.10, 0.02, 0.03, 0.01],
        [0.01, 0.03, 0.09, 0.02, 0.75, 0.05, 0.02, 0.04, 0.01],
        [0.01, 0.03, 0.03, 0.01, 0.04, 0.03, 0.80, 0.04, 0.01],
        [0.01, 0.01, 0.03, 0.01, 0.03, 0.08, 0.03, 0.78, 0.02],
        [0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.04, 0.89],
        [0.09, 0.05, 0.12, 0.63, 0.03, 0.05, 0.01, 0.01, 0.01],
        [0.05, 0.62, 0.02, 0.26, 0.01, 0.02, 0.01, 0.01, 0.01],
        [0.01, 0.02, 0.36, 0.03, 0.02, 0.42, 0.01, 0.10, 0.03],
    ],
    np.float32,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicWorldCollection:
    """Dynamic World: the nine probabilities and `label`, under the indices of Sentinel-2."""

    id: str = "GOOGLE/DYNAMICWORLD/V1"
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        for granule in find_granules(query):
            if granule.cloud_percentage <= _MOST_CLOUD:
                yield self._image(granule)

    def image(self, index: str) -> PlanetImage | None:
        granule = granule_of(index)
        return None if granule is None or granule.cloud_percentage > _MOST_CLOUD else self._image(granule)

    def _image(self, granule: Granule) -> PlanetImage:
        return PlanetImage(lambda: self._info(granule), lambda bands, request: _paint(granule, bands, request))

    def _info(self, granule: Granule) -> ImageInfo:
        grid = tile_bands(granule)["B2"]
        return ImageInfo(
            id=f"{self.id}/{granule.index}",
            bands=tuple(
                BandInfo(
                    id=name,
                    pixel_type=UINT8 if name == "label" else FLOAT,
                    projection=grid.projection,
                    dimensions=grid.dimensions,
                )
                for name in (*CLASSES, "label")
            ),
            properties={
                "system:index": granule.index,
                "system:time_start": granule.time_ms,
                "synthetic": True,
                "dynamicworld_algorithm_version": "3.5",
                "qa_algorithm_version": "v1.0.0",
            },
            footprint=granule.coverage.footprint,
        )


def _paint(granule: Granule, bands: tuple[str, ...], request: Request) -> Painted:
    frame = request.frame
    above = sky(frame, granule.overpass)
    valid = (above.cloud < 0.35) & (above.shadow < 0.6)
    inside = granule.coverage.inside(request.column, request.row, 10.0)
    if inside is not None:
        valid &= inside
    share = _probabilities(frame, granule.overpass.day)
    out: Painted = {}
    for name in bands:
        values = share.argmax(axis=0).astype(np.uint8) if name == "label" else share[CLASSES.index(name)]
        out[name] = (values, valid)
    return out


def _probabilities(frame: Frame, day: int) -> Singles:
    """(9, N) float32, each column summing to one."""

    def make() -> Singles:
        land = ground(frame)
        x, y, z = frame.position()
        doubt = octave_sum(x, y, z, ((0.7, 0.5, 0.0), (0.09, 0.4, 0.0)), 4_000 + day % 977)
        out = np.empty((len(CLASSES), frame.size), np.float32)
        _weigh(land.cover, today(frame, day), doubt, _LIKELY, out)
        return out

    return frame.keep_moment(("dynamic world", day), make)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _weigh(cover: Bytes, now: Singles, doubt: Singles, likely: Singles, out: Singles) -> None:
    for i in range(cover.size):
        kind = cover[i]
        total = np.float32(0.0)
        blur = min(max(np.float32(0.14) + np.float32(0.35) * doubt[i], np.float32(0.0)), np.float32(0.6))
        for k in range(9):
            value = likely[kind, k] * (np.float32(1.0) - blur) + blur * np.float32(0.11)
            if k == 7 and (kind == 3 or kind == 4 or kind == 2):
                value += np.float32(0.35) * (np.float32(1.0) - now[0, i] - np.float32(0.8) * now[1, i])
            if k == 8:
                value += np.float32(1.2) * now[2, i]
            value = max(value, np.float32(0.005))
            out[k, i] = value
            total += value
        for k in range(9):
            out[k, i] /= total
