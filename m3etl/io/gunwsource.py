"""S1-GUNW products as the source of chips: which ones are there, which pairs a chip gets, and their pixels on its grid.

Products come from a directory, from a list of paths and addresses, or from a search of the archive.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.compute.grids import PixelGrid
from m3etl.compute.stitching import Interferogram, stitch_interferograms, warp_interferogram
from m3etl.compute.warp import transformer
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.gunw import Pair, Patch, Product, choose_pairs, open_gunw, parse_name
from m3etl.spec.catalog_insar import DayWindow, day_windows

Array = npt.NDArray[Any]
Key = tuple[str, int, str, str]
most_open = 8  # products; neighbouring chips lie in the same ones
least_gain = 0.002  # of the chip's area, for which a further frame of a pair is read
nearly_best = 0.9  # pairs that cover this much of what the best of a window covers are compared by their days
search_cell_deg = 2.0
search_margin_deg = 0.2  # beyond a cell, so that chips whose centre lies in it lie in it as a whole
kept_cells = 16
_geometry_names = ("perpendicularBaseline", "incidenceAngle", "lookAngle", "azimuthAngle")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundProduct:
    """A product that is there: its path or address, its pair, and the lon/lat polygon in which it has data."""

    location: str
    pair: Pair
    footprint: BaseGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPair:
    """What one window of days of a chip is made of: the frames of one pair, the one that covers most first."""

    window: DayWindow
    frames: tuple[FoundProduct, ...]

    @property
    def pair(self) -> Pair:
        return self.frames[0].pair


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPair:
    """One window of a chip: its pixels, and the numbers of `pair_features`, None where the product has none."""

    chosen: ChosenPair
    pixels: Interferogram
    features: tuple[float | None, ...]


class Products(Protocol):
    """Products that may lie over a chip."""

    def near(self, chip: BaseGeometry) -> Sequence[FoundProduct]: ...


class Archive(Protocol):
    """A catalogue of products that can be asked."""

    def search(
        self, bounds_lonlat: tuple[float, float, float, float], first: datetime, last: datetime
    ) -> Sequence[FoundProduct]:
        """Products over west, south, east, north whose dates lie in [first, last]. RemoteError where it fails."""


class ListedProducts:
    """Products that are all known beforehand."""

    def __init__(self, found: Iterable[FoundProduct]) -> None:
        self._found = list({item.pair.name: item for item in reversed(list(found))}.values())[::-1]
        self._tree = shapely.STRtree([item.footprint for item in self._found])

    def __len__(self) -> int:
        return len(self._found)

    def near(self, chip: BaseGeometry) -> Sequence[FoundProduct]:
        return [self._found[number] for number in sorted(self._tree.query(chip, predicate="intersects").tolist())]


class SearchedProducts:
    """Products of an archive, asked for by cells of 2 degrees when a chip first needs them."""

    def __init__(self, archive: Archive, first: datetime, last: datetime) -> None:
        self._archive = archive
        self._dates = first, last
        self._cells: OrderedDict[tuple[int, int], ListedProducts] = OrderedDict()

    def near(self, chip: BaseGeometry) -> Sequence[FoundProduct]:
        centre = chip.centroid
        cell = int(centre.x // search_cell_deg), int(centre.y // search_cell_deg)
        if cell not in self._cells:
            west, south = cell[0] * search_cell_deg - search_margin_deg, cell[1] * search_cell_deg - search_margin_deg
            side = search_cell_deg + 2 * search_margin_deg
            bounds = max(west, -180.0), max(south, -90.0), min(west + side, 180.0), min(south + side, 90.0)
            self._cells[cell] = ListedProducts(self._archive.search(bounds, *self._dates))
            while len(self._cells) > kept_cells:
                self._cells.popitem(last=False)
        return self._cells[cell].near(chip)


def find_products(place: str, on_found: Callable[[int], None] = lambda _: None) -> ListedProducts:
    """The products in a directory, of a text file with a path or address in each line, or the one that `place` is.

    Every one is opened for its footprint. Raises NothingSelectedError where there is none, and what `open_gunw` raises.
    """
    found = []
    for location in _locations(place):
        with open_gunw(location) as product:
            found.append(FoundProduct(location=location, pair=product.pair, footprint=_valid(product.footprint)))
        on_found(1)
    return ListedProducts(found)


def _locations(place: str) -> list[str]:
    path = Path(place)
    if "://" in place or path.suffix == ".nc":
        return [place]
    if path.is_dir():
        found = sorted(str(item) for item in path.rglob("S1-GUNW*.nc"))
    else:
        try:
            lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot read the list of products {place}: {error}",
                hint="Name a directory with S1-GUNW files, or a text file with a path or an address in each line.",
            ) from error
        found = [line if "://" in line else str(path.parent / line) for line in lines if line]
        for line in found:
            parse_name(line)
    if not found:
        raise NothingSelectedError(f"there is no S1-GUNW product in {place}", hint="Files are called S1-GUNW-....nc.")
    return found


def _valid(footprint: BaseGeometry) -> BaseGeometry:
    return footprint if footprint.is_valid else shapely.make_valid(footprint)


def chip_polygon(grid: PixelGrid) -> BaseGeometry:
    """The chip's outline in lon/lat degrees."""
    columns = np.array([0, grid.width, grid.width, 0])
    rows = np.array([0, 0, grid.height, grid.height])
    lon, lat = transformer(grid.crs, "EPSG:4326").transform(*grid.xy_of(columns, rows))
    lon = lon - 360.0 * np.round((lon - lon[0]) / 360.0)
    outline: BaseGeometry = shapely.Polygon(np.column_stack([lon, lat]))
    return outline


def choose_products(
    found: Sequence[FoundProduct], chip: BaseGeometry, anchor: datetime | None
) -> tuple[ChosenPair, ...]:
    """For each window of days one pair, all of one relative orbit: that which fills most windows of the chip, of equal
    ones that with most pairs. In a window the pair nearest to its middle, of equal ones that nearest to the anchor.
    """
    pairs: dict[Key, list[FoundProduct]] = {}
    for item in found:
        pairs.setdefault(item.pair.key, []).append(item)
    frames = {key: _frames(items, chip) for key, items in pairs.items()}
    frames = {key: item for key, item in frames.items() if item[1]}
    orbits = sorted({key[:2] for key in frames})
    chosen = [_of_orbit({key: item for key, item in frames.items() if key[:2] == orbit}, anchor) for orbit in orbits]
    best = max(chosen, key=lambda item: item[0], default=((0.0, 0), ()))
    return best[1]


def _of_orbit(
    frames: Mapping[Key, tuple[float, tuple[FoundProduct, ...]]], anchor: datetime | None
) -> tuple[tuple[float, int], tuple[ChosenPair, ...]]:
    """((covered share summed over the windows, number of pairs), the choice of each window)."""
    chosen, total = [], 0.0
    pairs = [items[0].pair for _, items in frames.values()]
    for window in day_windows:
        within = choose_pairs(pairs, least_days=window.least, most_days=window.most)
        if not within:
            continue
        most = max(frames[pair.key][0] for pair in within)
        good = [pair for pair in within if frames[pair.key][0] >= nearly_best * most]
        pair = min(good, key=lambda item: (abs(item.days - window.middle), _gap(item, anchor), item.name))
        share, items = frames[pair.key]
        chosen.append(ChosenPair(window=window, frames=items))
        total += share
    return (round(total, 1), len(pairs)), tuple(chosen)


def _gap(pair: Pair, anchor: datetime | None) -> float:
    if anchor is None:
        return 0.0
    middle = pair.secondary + (pair.reference - pair.secondary) / 2
    return abs((middle - anchor).total_seconds())


def _frames(items: Sequence[FoundProduct], chip: BaseGeometry) -> tuple[float, tuple[FoundProduct, ...]]:
    """(share of the chip, the frames needed for it) of one pair: of the layout (version 2 or 3) that covers more, the
    newest products; one that brings nothing more, such as the same frame processed twice, is left out.
    """
    best: tuple[float, tuple[FoundProduct, ...]] = (0.0, ())
    for layout in sorted({item.pair.version[0] for item in items}, reverse=True):
        same = [item for item in items if item.pair.version[0] == layout]
        same.sort(key=lambda item: (round(_share(item.footprint, chip), 3), item.pair.version, item.pair.name))
        covered: BaseGeometry = shapely.Polygon()
        used: list[FoundProduct] = []
        for item in reversed(same):
            further = covered.union(item.footprint.intersection(chip))
            if _share(further, chip) >= _share(covered, chip) + least_gain:
                covered, used = further, [*used, item]
        share = _share(covered, chip)
        if share > best[0] + least_gain:
            best = share, tuple(used)
    return best


def _share(footprint: BaseGeometry, chip: BaseGeometry) -> float:
    return float(footprint.intersection(chip).area / chip.area)


class ProductReader:
    """Reads pairs for chips and keeps the products of the last few open. Close it at the end."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[Product, ExitStack]] = OrderedDict()

    def close(self) -> None:
        """Close every product."""
        while self._open:
            self._open.popitem()[1][1].close()

    def read(self, chosen: ChosenPair, grid: PixelGrid, *, elevation_m: float) -> ReadPair | None:
        """The pair on the chip's grid, its frames stitched; None where no frame has pixels there."""
        outline = chip_polygon(grid)
        patches = [self._patch(frame, outline.bounds, elevation_m) for frame in chosen.frames]
        known = [patch for patch in patches if patch is not None]
        if not known:
            return None
        parts = [warp_interferogram(_pixels(patch), _grid(patch), grid) for patch in known]
        centre = outline.centroid
        return ReadPair(
            chosen=chosen,
            pixels=stitch_interferograms(parts),
            features=(float(chosen.pair.days), *_geometry_at(known[0], centre.x, centre.y)),
        )

    def _patch(
        self, frame: FoundProduct, bounds: tuple[float, float, float, float], elevation_m: float
    ) -> Patch | None:
        patch = self._product(frame.location).read(bounds, elevation_m=elevation_m)
        # One row or column of pixels is no grid; it belongs to the very edge of a frame.
        return patch if patch is not None and min(patch.phase.shape) > 1 else None

    def _product(self, location: str) -> Product:
        if location in self._open:
            self._open.move_to_end(location)
        else:
            stack = ExitStack()
            self._open[location] = stack.enter_context(open_gunw(location)), stack
            while len(self._open) > most_open:
                self._open.popitem(last=False)[1][1].close()
        return self._open[location][0]


def _pixels(patch: Patch) -> Interferogram:
    return Interferogram(
        phase=patch.phase, coherence=patch.coherence, amplitude=patch.amplitude, component=patch.component
    )


def _grid(patch: Patch) -> PixelGrid:
    """The pixel grid of a patch, from the centres of its first and last pixels."""
    height, width = patch.phase.shape
    across = float(patch.longitude[-1] - patch.longitude[0]) / (width - 1)
    down = float(patch.latitude[-1] - patch.latitude[0]) / (height - 1)
    west, north = float(patch.longitude[0]) - across / 2, float(patch.latitude[0]) - down / 2
    return PixelGrid(crs="EPSG:4326", affine=(across, 0.0, west, 0.0, down, north), width=width, height=height)


def _geometry_at(patch: Patch, lon: float, lat: float) -> tuple[float | None, ...]:
    row, column = int(np.abs(patch.latitude - lat).argmin()), int(np.abs(patch.longitude - lon).argmin())
    values = (patch.geometry[name][row, column] if name in patch.geometry else np.nan for name in _geometry_names)
    return tuple(float(value) if np.isfinite(value) else None for value in values)
