"""`m3etl tile` with `[sources]` in campaign.toml: rasters of the user's own become arrays of chips that are sealed."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from m3etl.campaign import Campaign, SourceConfig, locked, save_config
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.geotiffs import is_remote
from m3etl.io.localfiles import LocalFiles, find_local_files
from m3etl.io.provenance import read_provenance
from m3etl.io.store import ChipStore, open_store
from m3etl.spec.catalog import find_array
from m3etl.stages.cutting import ChipCutter, ChipPlace, CutChip
from m3etl.stages.importing import ImportedArray, import_arrays
from m3etl.stages.summary import Progress, Summary

first_addition = 10_000  # exports count from 1, interferograms have 1000


def with_sources(campaign: Campaign, given: Mapping[str, tuple[str, ...]]) -> Campaign:
    """The campaign with these files (array name -> paths) as sources in its campaign.toml, beside what is there."""
    sources = dict(campaign.config.sources)
    for name, files in given.items():
        find_array(name)
        wanted = tuple(text if is_remote(text) else str(Path(text).resolve()) for text in files)
        sources[name] = replace(sources.get(name, SourceConfig()), files=wanted)
    changed = campaign.with_config(sources=sources)
    if changed.config != campaign.config:
        save_config(changed)
    return changed


def run_local_arrays(campaign: Campaign, *, progress: Progress) -> Summary:
    """Give every sealed chip the arrays that `[sources]` names, cut from their files. Doing it again changes nothing:
    what is sealed stays, chips sealed since are added.

    All sources are checked before anything is written. Raises InputError where files, array and campaign do not go
    together, NothingSelectedError where no file or no chip is met, RemoteError where a server fails.
    """
    started = time.monotonic()
    if not campaign.store_path.exists():
        raise NothingSelectedError("there are no chips to cut from your files yet", hint="Run `m3etl export` first.")
    facts: dict[str, Any] = {}
    done = 0
    with locked(campaign):
        store = open_store(campaign.store_path)
        found = {name: _files_of(campaign, name, config) for name, config in campaign.config.sources.items()}
        for name in found:
            _check_not_exported(campaign, store, name)
        for name, source in found.items():
            progress.start(name, int(store.sealed.sum()))
            maker = _Maker(store, source)
            maker.check_meets(name)
            counts = import_arrays(campaign, [source.spec], maker.make, addition=_addition(name), progress=progress)
            progress.finish()
            done += counts.chips
            statuses = Counter({status: count for (_, status), count in counts.statuses.items()})
            facts[name] = {"files": len(source.rasters), "chips": counts.chips, **statuses}
    return Summary(stage="tile", done=done, seconds=time.monotonic() - started, facts={"from your files": facts})


def _files_of(campaign: Campaign, name: str, config: SourceConfig) -> LocalFiles:
    spec = find_array(name)
    files = [text if is_remote(text) else str(campaign.root / text) for text in config.files]
    if not files:
        raise InputError(f"[sources.{name}] in {campaign.config_path} names no files", hint='Write `files = ["..."]`.')
    return find_local_files(
        spec,
        files,
        bands=config.bands,
        nodata=config.nodata,
        values=config.values,
        method=config.resampling,
        license_id=config.license,
    )


def _check_not_exported(campaign: Campaign, store: ChipStore, name: str) -> None:
    if name not in store.specs:
        return
    records = read_provenance(campaign.provenance_path, [int(store.sealed.argmax()) // store.shard_chips])
    origins = set(records.loc[records["array"] == name, "origin"]) - {"import"}
    if origins:
        raise InputError(
            f"{name} of this campaign comes from {', '.join(sorted(origins))} already; what is sealed is not replaced",
            hint="Declare an array of your own for your files (see docs/own-arrays.md), or start another campaign.",
        )


def _addition(name: str) -> int:
    """Number of the provenance of an array, the same whenever it is imported."""
    return first_addition + zlib.crc32(name.encode())


class _Maker:
    """Makes one array chip after chip, in order of row; cuts shard by shard."""

    def __init__(self, store: ChipStore, source: LocalFiles) -> None:
        self._store = store
        self._source = source
        self._cutter = ChipCutter(source, store.chip_m)
        self._shard = -1
        self._cut: Iterator[CutChip] = iter(())

    def make(self, place: ChipPlace, anchor: datetime | None) -> Mapping[str, ImportedArray]:
        """The array of the next chip."""
        del anchor  # maps of the user's own have no time
        shard = place.row // self._store.shard_chips
        if shard != self._shard:
            self._shard, self._cut = shard, self._cutter.cut(self._places(shard))
        chip = next(self._cut)
        if chip.place != place:
            raise ValueError(f"{place.chip_id} is asked for, {chip.place.chip_id} comes next")
        made = ImportedArray(values=chip.values, sources=chip.files, license=self._source.license)
        return {self._source.spec.name: made}

    def check_meets(self, name: str) -> None:
        """NothingSelectedError where no chip lies where the files do."""
        shards = range(self._store.shard_count)
        if not any(self._cutter.meets(self._places(shard)) for shard in shards):
            first = self._source.rasters[0]
            raise NothingSelectedError(
                f"none of the {len(self._source.rasters)} files of {name} meets a chip of this campaign "
                f"(the first is {first.name}, {first.grid.crs[:40]})",
                hint="Are these the files of another region? `m3etl describe` shows where the chips lie.",
            )

    def _places(self, shard: int) -> list[ChipPlace]:
        store = self._store
        first = shard * store.shard_chips
        return [
            ChipPlace(
                row=row,
                chip_id=str(store.chip_ids[row]),
                epsg=int(store.epsg[row]),
                xmin=float(store.xmin[row]),
                ymax=float(store.ymax[row]),
                lon=float(store.lon[row]),
                lat=float(store.lat[row]),
            )
            for row in range(first, min(first + store.shard_chips, store.rows))
            if store.chip_ids[row]
        ]
