"""Which arrays and chips of a data set a reader gets, and where the data set lies: a campaign directory or a URL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from m3etl.errors import NothingSelectedError
from m3etl.io.store import ChipStore, open_store
from m3etl.spec.modality import ArraySpec

Require = Sequence[str | Sequence[str]]
Place = Path | str | ChipStore  # a campaign directory, a URL, or a store that is open already


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Path or URL of the store and of its statistics."""

    store: Path | str
    stats: Path | str


def locate(place: Place) -> Location:
    """Where store and statistics of a data set are: `place` is a campaign, a published copy of one, or the store.

    A URL ("hf://datasets/ORG/NAME", "s3://bucket/folder", "https://...") is one with "://" in it.
    """
    text = (place.source.where("") if isinstance(place, ChipStore) else str(place)).rstrip("/")
    folder = text.rpartition("/")[0] if text.endswith(".zarr") else text
    store = text if text.endswith(".zarr") else f"{text}/chips.zarr"
    stats = f"{folder}/stats.json" if folder else "stats.json"
    return Location(store=store, stats=stats) if "://" in text else Location(store=Path(store), stats=Path(stats))


def open_data(place: Place) -> ChipStore:
    """The store of a campaign directory or URL; one that is open already stays as it is."""
    return place if isinstance(place, ChipStore) else open_store(locate(place).store)


def select_specs(store: ChipStore, arrays: Sequence[str] | None) -> dict[str, ArraySpec]:
    """The declarations of the named arrays (all with None); InputError lists the unknown names."""
    names = list(store.specs) if arrays is None else list(arrays)
    unknown = [name for name in names if name not in store.specs]
    if unknown or not names:
        raise store.unknown_arrays(unknown)
    return {name: store.specs[name] for name in names}


def select_rows(store: ChipStore, split: str | None, require: Require = ()) -> npt.NDArray[np.int64]:
    """Rows of the sealed chips of a split that have what is required, ascending; padding never.

    Raises NothingSelectedError that names split and requirement and says what there is.
    """
    chosen = store.sealed if split is None else store.sealed & store.is_of_split(split)
    in_split = int(chosen.sum())
    for item in require:
        names = [item] if isinstance(item, str) else list(item)
        chosen = chosen & np.any([store.present(name) for name in select_specs(store, names)], axis=0)
    rows = np.flatnonzero(chosen).astype(np.int64)
    if rows.size == 0:
        splits, counts = np.unique(store.split[store.sealed], return_counts=True)
        found = ", ".join(f"{count} in {name}" for name, count in zip(splits, counts, strict=True)) or "none at all"
        wanted = "any split" if split is None else f"split {split}"
        asked = f" that have {' and '.join(_spelled(item) for item in require)}" if require else ""
        raise NothingSelectedError(
            f"no chips of {wanted}{asked}; sealed chips: {found}, {in_split} of them in {wanted}",
            hint="Sample and export more chips, or choose another split or fewer required arrays.",
        )
    return rows


def _spelled(item: str | Sequence[str]) -> str:
    return item if isinstance(item, str) else " or ".join(item)
