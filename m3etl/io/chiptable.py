"""The chips of a store by row: name, split and place, one small file a shard, read when they are asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.io.columns import decode_column_chunk, lengths_of_text, texts_of
from m3etl.io.layout import StoreLayout, chip_columns
from m3etl.io.shards import Array
from m3etl.io.sources import Source


class ChipTable:
    """The per-chip columns of a store as it was when opened."""

    def __init__(self, source: Source, layout: StoreLayout) -> None:
        self.source = source
        self.layout = layout

    @cached_property
    def chip_ids(self) -> npt.NDArray[np.str_]:
        """(rows,) names of the chips; "" in padding rows, superseded rows and rows not sealed yet."""
        names = np.asarray(self._column("chip_id"))
        names[list(self.layout.superseded)] = ""
        return names

    @cached_property
    def sealed(self) -> npt.NDArray[np.bool_]:
        """(rows,) whether a row holds a chip; quicker to have than the names."""
        contents = self.source.read_many(
            [self._column_key("chip_id", shard) for shard in range(self.layout.shard_count)]
        )
        found = np.zeros(self.layout.shard_count * self.layout.shard_chips, dtype=np.bool_)
        for shard, content in enumerate(contents):
            part = found[shard * self.layout.shard_chips : (shard + 1) * self.layout.shard_chips]
            part[:] = lengths_of_text(content, self.layout.shard_chips, self._column_place("chip_id", shard)) > 0
        found[list(self.layout.superseded)] = False
        return found[: self.layout.rows]

    @cached_property
    def split(self) -> npt.NDArray[np.str_]:
        """(rows,) train, val, test or buffer; "" in padding rows."""
        codes, names = self._split_codes
        return np.array(names or [""], dtype=np.str_)[codes]

    def is_of_split(self, split: str) -> npt.NDArray[np.bool_]:
        """(rows,) whether a row belongs to train, val, test or buffer."""
        codes, names = self._split_codes
        return codes == names.index(split) if split in names else np.zeros(self.layout.rows, dtype=np.bool_)

    @cached_property
    def lon(self) -> npt.NDArray[np.float64]:
        """(rows,) longitude of the centre in degrees; NaN in padding rows."""
        return np.asarray(self._column("lon"))

    @cached_property
    def lat(self) -> npt.NDArray[np.float64]:
        """(rows,) latitude of the centre in degrees; NaN in padding rows."""
        return np.asarray(self._column("lat"))

    @cached_property
    def epsg(self) -> npt.NDArray[np.int32]:
        """(rows,) EPSG code of the chip's grid; -1 in padding rows."""
        return np.asarray(self._column("epsg"))

    @cached_property
    def xmin(self) -> npt.NDArray[np.float64]:
        """(rows,) west edge in metres of the chip's grid."""
        return np.asarray(self._column("xmin"))

    @cached_property
    def ymax(self) -> npt.NDArray[np.float64]:
        """(rows,) north edge in metres of the chip's grid."""
        return np.asarray(self._column("ymax"))

    def names_of(self, shard: int) -> list[str]:
        """Names of the chips of one shard, read alone: of a million chips all names are many."""
        return [str(name) for name in self._read_column_chunk("chip_id", shard)]

    def _contents(self, name: str) -> list[bytes | None]:
        return self.source.read_many([self._column_key(name, shard) for shard in range(self.layout.shard_count)])

    def _column(self, name: str) -> Any:
        parts = [
            decode_column_chunk(self.layout, name, content, self._column_place(name, shard))
            for shard, content in enumerate(self._contents(name))
        ]
        if not parts:
            return np.empty(0, dtype=np.str_ if chip_columns[name] == "string" else chip_columns[name])
        return np.concatenate(parts)[: self.layout.rows]

    @cached_property
    def _split_codes(self) -> tuple[npt.NDArray[np.uint8], list[str]]:
        """Number of each row's split, and the names by number: of a million chips these are quick to compare."""
        names = _Numbers()
        codes = np.zeros(self.layout.shard_count * self.layout.shard_chips, dtype=np.uint8)
        contents = self._contents("split")
        for shard, content in enumerate(contents):
            texts = texts_of(content, self.layout.shard_chips, "split", self._column_place("split", shard))
            first = shard * self.layout.shard_chips
            codes[first : first + self.layout.shard_chips] = list(map(names.__getitem__, texts))
        return codes[: self.layout.rows], list(names)

    def _read_column_chunk(self, name: str, shard: int) -> Array:
        content = self.source.read_many([self._column_key(name, shard)])[0]
        return decode_column_chunk(self.layout, name, content, self._column_place(name, shard))

    def _column_key(self, name: str, shard: int) -> str:
        return f"{name}/c.{shard}"

    def _column_place(self, name: str, shard: int) -> str:
        return self.source.where(self._column_key(name, shard))


class _Numbers(dict[str, int]):
    """Texts by number, in the order in which they are first asked for."""

    def __missing__(self, text: str) -> int:
        self[text] = number = len(self)
        return number
