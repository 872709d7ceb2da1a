"""The state of one request: assets, budget, reader, and images already opened."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.evaluate.bands import Band, SourceBand
from m3etl.emulator.evaluate.limits import Budget, Limits, Usage
from m3etl.emulator.evaluate.projections import ProjectionMaps
from m3etl.emulator.evaluate.reader import Reader
from m3etl.emulator.evaluate.values import GeometryValue, ImageValue
from m3etl.emulator.model import AssetSource, SourceImage, SourceTable, invalid, not_found


class TableIndexes:
    """Spatial indexes of the tables, built once per table and shared by all requests."""

    def __init__(self) -> None:
        self._trees: dict[str, tuple[SourceTable, shapely.STRtree]] = {}
        self._lock = threading.Lock()

    def near(self, table: SourceTable, region: BaseGeometry) -> list[int]:
        """Positions, in order, of the features whose bounds meet a region."""
        with self._lock:
            found = self._trees.get(table.id)
            if found is None or found[0] is not table:
                empty = shapely.Point()
                tree = shapely.STRtree([feature.geometry or empty for feature in table.features])
                tree.query(empty)  # builds the tree, which is not safe to do in several threads
                found = self._trees[table.id] = (table, tree)
        return sorted(int(index) for index in found[1].query(region))


class Context:
    """What implementations of algorithms may use."""

    def __init__(
        self, assets: AssetSource, *, limits: Limits, usage: Usage, maps: ProjectionMaps, tables: TableIndexes
    ) -> None:
        self.assets = assets
        self.limits = limits
        self.usage = usage
        self.budget = Budget(limits)
        self.reader = Reader(maps, self.budget, usage)
        self.tables = tables
        self._images: dict[str, tuple[SourceImage, ImageValue]] = {}
        self._footprints: dict[int, tuple[BaseGeometry, GeometryValue]] = {}

    def load_image(self, asset_id: str) -> ImageValue:
        """The image asset of an id; a missing one is the service's own error."""
        source = self.assets.image(asset_id)
        if source is None:
            if self.assets.collection(asset_id) is not None:
                raise invalid(f"Image.load: Asset '{asset_id}' is not an Image.")
            raise not_found_asset("Image.load", "Image", asset_id)
        return self.open_image(source)

    def open_image(self, source: SourceImage) -> ImageValue:
        """The lazy image of a source; one object per asset and request, so that its pixels are read once."""
        info = source.info
        found = self._images.get(info.id)
        if found is not None:
            return found[1]
        footprint = None if info.footprint is None else self._footprint(info.footprint)
        properties: Mapping[str, Any] = info.properties
        if "system:index" not in properties:
            properties = {**properties, "system:index": info.id.rsplit("/", 1)[-1]}

        def bands() -> Mapping[str, Band]:
            return {
                band.id: SourceBand(source, band.id, band.pixel_type, band.projection, footprint, band.dimensions)
                for band in info.bands
            }

        image = ImageValue(bands, properties, id=info.id, footprint=footprint)
        self._images[info.id] = (source, image)
        return image

    def _footprint(self, shape: BaseGeometry) -> GeometryValue:
        """One value per shape object, so that masks and intersections with it are found again."""
        found = self._footprints.get(id(shape))
        if found is None:
            found = self._footprints[id(shape)] = (shape, GeometryValue(shape))
        return found[1]


def not_found_asset(algorithm: str, kind: str, asset_id: str) -> Exception:
    """The error of an asset that does not exist."""
    return not_found(
        f"{algorithm}: {kind} asset '{asset_id}' not found (does not exist or caller does not have access)."
    )
