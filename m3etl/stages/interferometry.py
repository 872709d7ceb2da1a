"""`tile --gunw`: interferograms of ARIA S1-GUNW products become arrays of chips that are sealed already."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.campaign import Campaign, locked
from m3etl.compute.grids import PixelGrid, chip_grid
from m3etl.compute.storing import SourceNumbers, stored_of
from m3etl.errors import NothingSelectedError
from m3etl.io.gunwsource import (
    Archive,
    ProductReader,
    Products,
    ReadPair,
    SearchedProducts,
    chip_polygon,
    choose_products,
    find_products,
)
from m3etl.io.reader import ChipStore
from m3etl.io.store import open_store
from m3etl.spec.catalog_insar import day_windows, insar_arrays, pair_features
from m3etl.spec.modality import ArraySpec, Shape, physical_of
from m3etl.stages.cutting import ChipPlace
from m3etl.stages.importing import ImportCounts, ImportedArray, import_arrays
from m3etl.stages.summary import Progress, Summary
from m3etl.stages.tile import stored_vector

Array = npt.NDArray[Any]
gunw_addition = 1000  # exports count from 1; imports have numbers beyond
archive_name = "asf"  # as a place: search the archive
_parts = {
    "gunw_phase": "phase",
    "gunw_coherence": "coherence",
    "gunw_amplitude": "amplitude",
    "gunw_component": "component",
}


def run_interferometry(
    campaign: Campaign, place: str, *, archive: Archive | None = None, progress: Progress
) -> Summary:
    """Store the interferograms of every sealed chip that has none yet. Doing it again changes nothing.

    place: a directory with products, a text file with a path or address in each line, one product, or `asf` to search
    the archive (`archive`, that of the Alaska Satellite Facility by default). Chips that no product meets are recorded
    as `no_scene`.

    Raises NothingSelectedError where nothing is sealed or no product found, InputError for files that are no products,
    RemoteError where a server fails; what is sealed by then stays.
    """
    started = time.monotonic()
    if not campaign.store_path.exists():
        raise NothingSelectedError("there are no chips to give interferograms to", hint="Run `m3etl export` first.")
    with locked(campaign), contextlib.closing(ProductReader()) as reader:
        store = open_store(campaign.store_path)
        products = _products(campaign, place, archive, progress)
        progress.start("interferograms", int(store.sealed.sum()))
        maker = _Maker(store, products, reader)
        counts = import_arrays(campaign, insar_arrays(), maker.make, addition=gunw_addition, progress=progress)
        progress.finish()
    if not counts.shards and counts.shards_before:
        progress.say("all chips have their interferograms already; what is sealed is not made again")
    return _summary(counts, maker, time.monotonic() - started)


def _products(campaign: Campaign, place: str, archive: Archive | None, progress: Progress) -> Products:
    if place == archive_name:
        if archive is None:
            from m3etl.io.gunwsearch import AsfArchive

            archive = AsfArchive()
        first, last = campaign.config.sample.years
        return SearchedProducts(archive, datetime(first - 1, 7, 1, tzinfo=UTC), datetime(last + 1, 7, 1, tzinfo=UTC))
    progress.start("products", None)
    found = find_products(place, progress.advance)
    progress.finish()
    return found


def _summary(counts: ImportCounts, maker: _Maker, seconds: float) -> Summary:
    statuses = Counter({status: count for (name, status), count in counts.statuses.items() if name == "gunw_phase"})
    return Summary(
        stage="tile",
        done=counts.chips,
        seconds=seconds,
        facts={
            "chips with interferograms": statuses["ok"],
            "chips outside every product": statuses["no_scene"],
            "chips on two frames": maker.stitched,
            "pairs by window": dict(maker.pairs),
            "shards sealed before": counts.shards_before,
        },
    )


class _Maker:
    """Makes the arrays of one chip after the other. stitched: chips with a pair of several frames; pairs: chips by
    window.
    """

    def __init__(self, store: ChipStore, products: Products, reader: ProductReader) -> None:
        self._store = store
        self._products = products
        self._reader = reader
        self.stitched = 0
        self.pairs = Counter({window.name: 0 for window in day_windows})

    def make(self, place: ChipPlace, anchor: datetime | None) -> Mapping[str, ImportedArray]:
        """The arrays of a chip; without values where no product meets it."""
        specs = {spec.name: spec for spec in insar_arrays()}
        grid = _grid(specs["gunw_phase"], place, self._store.chip_m)
        outline = chip_polygon(grid)
        chosen = choose_products(self._products.near(outline), outline, anchor)
        elevation_m = self._elevation(place.row) if chosen else 0.0
        read = [self._reader.read(item, grid, elevation_m=elevation_m) for item in chosen]
        found = {item.chosen.window.name: item for item in read if item is not None}
        if not found:
            return {name: ImportedArray(values=None) for name in specs}
        self.pairs.update(found.keys())
        self.stitched += any(len(item.chosen.frames) > 1 for item in found.values())
        sources = tuple(dict.fromkeys(frame.pair.name for item in found.values() for frame in item.chosen.frames))
        first = next(iter(found.values())).chosen.pair.reference
        return {
            name: ImportedArray(values=_stored(spec, found, grid), sources=sources, time=first)
            for name, spec in specs.items()
        }

    def _elevation(self, row: int) -> float:
        """Mean height of the chip in metres, from the first elevation that the store has; 0 without one."""
        for name, spec in self._store.specs.items():
            if spec.bands == ("elevation",):
                physical = physical_of(spec, self._store.read(name, [row]))
                if np.isfinite(physical).any():
                    return float(np.nanmean(physical))
        return 0.0


def _grid(spec: ArraySpec, place: ChipPlace, chip_m: float) -> PixelGrid:
    return chip_grid(epsg=place.epsg, xmin=place.xmin, ymax=place.ymax, chip_m=chip_m, pixels=spec.pixels(chip_m))


def _stored(spec: ArraySpec, found: Mapping[str, ReadPair], grid: PixelGrid) -> Array:
    """One array of a chip as stored, fill in the bands of windows without a pair."""
    if spec.shape is Shape.VECTOR:
        values: list[float | None] = []
        for window in day_windows:
            values += found[window.name].features if window.name in found else [None] * len(pair_features)
        return stored_vector(spec, values)
    nothing = np.full((grid.height, grid.width), np.nan)
    planes: Sequence[Array] = [
        getattr(found[band].pixels, _parts[spec.name]) if band in found else nothing for band in spec.bands
    ]
    numbers = SourceNumbers(nodata=(None,) * len(planes), scale=1.0, offset=0.0)
    return stored_of(spec, np.stack(planes), numbers)
