"""The planet as a source of assets: every id it knows, and what answers for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from m3etl.emulator.model import SourceTable
from m3etl.emulator.planet import coherence, dynamicworld, era5, opera, sentinel1, sentinel2, static, yearly, zones
from m3etl.emulator.planet.cloudscore import CloudScoreCollection
from m3etl.emulator.planet.ecoregions import TABLE_ID, ecoregion_table
from m3etl.emulator.planet.imagery import PlanetCollection, PlanetImage


class Planet:
    """The synthetic Earth as an `AssetSource`."""

    def __init__(self) -> None:
        self._images = static.images()
        listed: tuple[PlanetCollection, ...] = (
            *sentinel2.COLLECTIONS,
            CloudScoreCollection(),
            *sentinel1.COLLECTIONS,
            dynamicworld.DynamicWorldCollection(),
            *static.COLLECTIONS,
            *yearly.COLLECTIONS,
            *zones.COLLECTIONS,
            *opera.COLLECTIONS,
            *coherence.COLLECTIONS,
            era5.Era5Collection(),
        )
        self._collections = {collection.id: collection for collection in listed}

    def image(self, asset_id: str) -> PlanetImage | None:
        if asset_id in self._images:
            return self._images[asset_id]
        parent, _, index = asset_id.rpartition("/")
        collection = self._collections.get(parent)
        return None if collection is None else collection.image(index)

    def collection(self, asset_id: str) -> PlanetCollection | None:
        return self._collections.get(asset_id)

    def table(self, asset_id: str) -> SourceTable | None:
        return ecoregion_table() if asset_id == TABLE_ID else None

    @functools.cached_property
    def ids(self) -> tuple[tuple[str, str], ...]:
        """Every asset that is no image of a collection, as (id, type)."""
        found = [(asset_id, "IMAGE") for asset_id in self._images]
        found += [(asset_id, "IMAGE_COLLECTION") for asset_id in self._collections]
        return (*found, (TABLE_ID, "TABLE"))

    def list_ids(self, parent: str) -> Sequence[tuple[str, str]]:
        return children(self.ids, parent)


def children(ids: Sequence[tuple[str, str]], parent: str) -> list[tuple[str, str]]:
    """Assets and folders directly below a folder ("" for the root), sorted by id."""
    prefix = f"{parent.strip('/')}/" if parent.strip("/") else ""
    found: dict[str, str] = {}
    for asset_id, kind in ids:
        if asset_id.startswith(prefix) and asset_id != prefix:
            head, _, rest = asset_id[len(prefix) :].partition("/")
            found.setdefault(prefix + head, "FOLDER" if rest else kind)
            if not rest:
                found[prefix + head] = kind
    return sorted(found.items())
