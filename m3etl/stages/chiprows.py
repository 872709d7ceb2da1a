"""The rows of the plan: what each chosen cell becomes in chips.parquet."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from m3etl.campaign import SampleConfig
from m3etl.io.plan import chip_id_array
from m3etl.io.regions import shipped_regions
from m3etl.spec.biomes import no_biome
from m3etl.spec.cellstreams import is_in
from m3etl.spec.ecoregions import Ecoregions
from m3etl.spec.region import Region
from m3etl.spec.sampling import years_of_cells
from m3etl.spec.splitmodes import Splits
from m3etl.spec.splits import split_names
from m3etl.stages.selection import Part

Integers = npt.NDArray[np.int64]


class ChipRows:
    """Makes the rows of the plan from cells; holds nothing that changes, so that threads may share it."""

    def __init__(
        self, config: SampleConfig, ecoregions: Ecoregions, splits: Splits | None, region: Region, taken: Integers
    ) -> None:
        self._config = config
        self._splits = splits
        self._taken = taken
        # One more entry at the end, for the index -1 of chips that lie in no ecoregion.
        self._biome = np.append(ecoregions.biome, no_biome)
        self._eco_id = np.append(ecoregions.eco_id, -1)
        self._realm = _Names([*ecoregions.realm, ""])
        self._regions = shipped_regions() if region.is_globe else ()
        self._region_names = _Names([region.name, *(known.name for known in self._regions)])

    def __call__(self, part: Part) -> pa.Table:
        """Every column of `plan_types`, then the user's own, for the cells that the plan does not hold yet."""
        cells = part.cells
        lon, lat = cells.centre_lonlat
        west, south, east, north = cells.bounds_xy
        eco_id = self._eco_id[part.ecoregion]
        columns: dict[str, Any] = {
            "chip_id": chip_id_array(cells),
            "row": np.full(len(cells), -1, dtype=np.int64),
            "generation": np.full(len(cells), -1, dtype=np.int32),
            "epsg": cells.epsg.astype(np.int32),
            "xmin": west,
            "ymin": south,
            "xmax": east,
            "ymax": north,
            "lon": lon,
            "lat": lat,
            "biome": self._biome[part.ecoregion].astype(np.int16),
            "ecoregion": eco_id.astype(np.int32),
            "realm": self._realm(part.ecoregion % len(self._biome)),
            "region": self._region_names(self._region_of(lon, lat)),
            "year": self._years(part).astype(np.int16),
            "split": self._split(part, lon, lat, eco_id),
            "reserve": part.reserve,
            **part.columns,
        }
        rows = pa.table(columns)
        again = is_in(cells.key, self._taken)
        return rows.filter(pa.array(~again)) if again.any() else rows

    def _years(self, part: Part) -> Integers:
        drawn = years_of_cells(part.cells, *self._config.years, self._config.seed)
        return np.where(part.year > 0, part.year, drawn)

    def _split(self, part: Part, lon: npt.NDArray[Any], lat: npt.NDArray[Any], eco_id: Integers) -> pa.Array:
        if self._splits is None:
            return part.columns["point_split"]
        codes = self._splits.codes(lon, lat, eco_id, float(part.cells.cell_m))
        return _Names(list(split_names))(codes.astype(np.int64))

    def _region_of(self, lon: npt.NDArray[Any], lat: npt.NDArray[Any]) -> Integers:
        """The region of the request; for the globe the shipped region that each chip lies in, if any."""
        index = np.zeros(len(lon), dtype=np.int64)
        for number, known in enumerate(self._regions, start=1):
            index[known.contains_lonlat(lon, lat)] = number
        return index


class _Names:
    """Texts by index as Arrow arrays, without an object per row."""

    def __init__(self, names: list[str]) -> None:
        self._names = pa.array(names, type=pa.string())

    def __call__(self, index: Integers) -> pa.Array:
        return self._names.take(pa.array(index))
