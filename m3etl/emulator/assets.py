"""All assets of the embedded Earth Engine: the planet, with an archive of real data layered over it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m3etl.emulator.archive import Archive, ArchiveCollection, read_archive
from m3etl.emulator.model import AssetSource, CollectionQuery, SourceCollection, SourceImage, SourceTable
from m3etl.emulator.planet.source import Planet, children


def open_assets(archive: Path | None) -> AssetSource:
    """The planet, or the archive over the planet where a directory is given.

    Raises InputError where the archive is missing or wrong, with every bad line.
    """
    planet = Planet()
    return planet if archive is None else Layered(read_archive(archive), planet)


class Layered:
    """The archive over the planet.

    For each region asked for: where archive images of a collection meet it, the planet adds none of its own to that
    collection; elsewhere the planet answers. Ids are looked up in the archive first.
    """

    def __init__(self, archive: Archive, planet: Planet) -> None:
        self._archive = archive
        self._planet = planet

    def image(self, asset_id: str) -> SourceImage | None:
        return self._archive.image(asset_id) or self._planet.image(asset_id)

    def collection(self, asset_id: str) -> SourceCollection | None:
        over, under = self._archive.collection(asset_id), self._planet.collection(asset_id)
        if over is None or under is None:
            return over or under
        return LayeredCollection(over, under)

    def table(self, asset_id: str) -> SourceTable | None:
        return self._archive.table(asset_id) or self._planet.table(asset_id)

    def list_ids(self, parent: str) -> Sequence[tuple[str, str]]:
        return children((*self._planet.ids, *self._archive.ids), parent)


class LayeredCollection:
    """A collection that both layers have."""

    def __init__(self, over: ArchiveCollection, under: SourceCollection) -> None:
        self._over = over
        self._under = under

    @property
    def id(self) -> str:
        return self._over.id

    @property
    def properties(self) -> Mapping[str, Any]:
        return self._under.properties

    def find(self, query: CollectionQuery) -> Iterator[SourceImage]:
        """Images of one layer where a region is given; of both, without overlaps, where none is."""
        if query.region is not None:
            return self._over.find(query) if self._over.meets(query.region) else self._under.find(query)
        real = tuple(self._over.find(query))
        if query.index is not None and real:
            return iter(real)
        elsewhere = (image for image in self._under.find(query) if query.index is not None or not self._covered(image))
        return heapq.merge(real, elsewhere, key=_by_time)

    def _covered(self, image: SourceImage) -> bool:
        footprint = image.info.footprint
        return footprint is None or self._over.meets(footprint)


def _by_time(image: SourceImage) -> tuple[float, str]:
    properties = image.info.properties
    return float(properties["system:time_start"]), str(properties["system:index"])
