"""Types that the server, the evaluator and the asset sources of the embedded Earth Engine share.

Axis order: grids are described by an affine transform in Earth Engine's order (scaleX, shearX, translateX, shearY,
scaleY, translateY); arrays are indexed [row, column]; geometries are lon/lat in degrees (EPSG:4326).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

type_ranges: dict[str, tuple[float, float]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int32": (-2147483648, 2147483647),
    "uint32": (0, 4294967295),
}

# MODIS sinusoidal, as Earth Engine names it; PROJ does not know that authority.
crs_aliases = {"SR-ORG:6974": "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"}


class ServiceError(Exception):
    """An error as the service would answer it: HTTP code, canonical status and message."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[type[ServiceError], tuple[int, str, str]]:
        return ServiceError, (self.code, self.status, self.message)


def invalid(message: str) -> ServiceError:
    """A 400 INVALID_ARGUMENT: the request or the expression is wrong."""
    return ServiceError(400, "INVALID_ARGUMENT", message)


def not_found(message: str) -> ServiceError:
    """A 404 NOT_FOUND: an asset or an operation does not exist."""
    return ServiceError(404, "NOT_FOUND", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A coordinate system ("EPSG:32632", any authority code, or WKT) and the affine transform of its pixels.

    `transform` maps (column, row) of a pixel's upper-left corner to coordinates:
    x = a*col + b*row + c, y = d*col + e*row + f.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A raster of `height` rows and `width` columns on `projection`."""

    projection: Projection
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelType:
    """Earth Engine's pixel type: precision is "int", "float" or "double"; minimum and maximum only bound integers."""

    precision: str
    minimum: float | None = None
    maximum: float | None = None

    @classmethod
    def of(cls, dtype: str) -> PixelType:
        """The pixel type of a numpy dtype name, e.g. "uint16", "float32" (float) or "float64" (double)."""
        if dtype in type_ranges:
            low, high = type_ranges[dtype]
            return cls(precision="int", minimum=low, maximum=high)
        return cls(precision="double" if dtype == "float64" else "float")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest numpy dtype that holds every value of the type."""
        if self.precision != "int":
            return np.dtype("float64" if self.precision == "double" else "float32")
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
            if type_ranges[name][0] <= low and high <= type_ranges[name][1]:
                return np.dtype(name)
        return np.dtype("float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class BandInfo:
    """One band of a source image: name, pixel type, native projection and, where bounded, (width, height) in pixels."""

    id: str
    pixel_type: PixelType
    projection: Projection
    dimensions: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What is known of a source image without reading pixels.

    `properties` holds everything a user can filter on: `system:index`, `system:time_start` (ms since the epoch),
    `synthetic: True` for images of the planet, and the collection's own metadata.
    `footprint` is lon/lat, None if unbounded.
    """

    id: str
    bands: tuple[BandInfo, ...]
    properties: Mapping[str, Any]
    footprint: BaseGeometry | None = None
    license: str = "synthetic"


IntArray = npt.NDArray[np.int64]
Samples = dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]


class SourceImage(Protocol):
    """An image of an asset source. Thread-safe."""

    @property
    def info(self) -> ImageInfo: ...

    def sample(self, bands: Sequence[str], column: IntArray, row: IntArray) -> Samples:
        """Native pixels at integer (column, row) of the bands' own projection: {band: (values, valid)}.

        Both have the inputs' shape. All named bands share one projection (the evaluator groups them). Pixels
        outside the image are not valid.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionQuery:
    """What the evaluator could push down from the filters of a collection; every bound is optional, ms half-open."""

    region: BaseGeometry | None = None
    start_ms: float | None = None
    end_ms: float | None = None
    index: str | None = None


class SourceCollection(Protocol):
    """An image collection. Thread-safe."""

    @property
    def id(self) -> str: ...

    @property
    def properties(self) -> Mapping[str, Any]: ...

    def find(self, query: CollectionQuery) -> Iterator[SourceImage]:
        """Every image whose footprint meets `region` and whose time_start is in [start_ms, end_ms), by time then index.

        Lazy: a caller that takes the first image of an unbounded query pays for one.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFeature:
    """One row of a table asset."""

    geometry: BaseGeometry | None
    properties: Mapping[str, Any]
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A table asset, held in memory."""

    id: str
    features: tuple[TableFeature, ...]
    properties: Mapping[str, Any] = field(default_factory=dict)


class AssetSource(Protocol):
    """Where assets come from: the planet, the archive, or the archive over the planet. Ids are without any prefix,
    e.g. "COPERNICUS/S2_SR_HARMONIZED/20200408T143729_…" or "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"."""

    def image(self, asset_id: str) -> SourceImage | None: ...

    def collection(self, asset_id: str) -> SourceCollection | None: ...

    def table(self, asset_id: str) -> SourceTable | None: ...

    def list_ids(self, parent: str) -> Sequence[tuple[str, str]]:
        """Assets directly below a folder: (id, type), type being IMAGE, IMAGE_COLLECTION, TABLE or FOLDER."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """Evaluated pixels on a grid: per band a (height, width) array of the band's own dtype and its validity."""

    grid: Grid
    bands: Mapping[str, npt.NDArray[Any]]
    valid: Mapping[str, npt.NDArray[np.bool_]]
