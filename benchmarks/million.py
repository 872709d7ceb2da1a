"""A store of a million chips that costs little disk: one shard of real chips under the names of all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.synthetic import chip_m, make_sealed, repeat_sealed
from m3etl.io.columns import encode_text
from m3etl.io.layout import chip_columns, shard_path
from m3etl.io.store import create_store, grow_store, open_store, seal_shard
from m3etl.spec.modality import ArraySpec

chips = 1_000_000
shard_chips = 256


def make_million_chips(folder: Path, specs: Sequence[ArraySpec]) -> None:
    """chips.zarr with every file that a sealed store of this size has; shards are links to the first."""
    store = folder / "chips.zarr"
    create_store(store, specs, chip_m=chip_m, shard_chips=shard_chips)
    seal_shard(store, 0, repeat_sealed(list(make_sealed(range(16))), shard_chips))
    grow_store(store, -(-chips // shard_chips) * shard_chips)
    layout = open_store(store).layout
    splits = np.random.default_rng(0)
    for shard in range(layout.shard_count):
        first = shard * shard_chips
        names = [f"32632-1280-{row:07d}-3906" if row < chips else "" for row in range(first, first + shard_chips)]
        drawn = splits.choice(["train", "val", "test", "buffer"], shard_chips, p=[0.8, 0.08, 0.08, 0.04])
        split = [one if name else "" for one, name in zip(drawn.tolist(), names, strict=True)]
        for column in chip_columns:
            _write_or_link(store / column, shard, {"chip_id": names, "split": split}.get(column))
        for spec in specs:
            if shard:
                os.link(shard_path(store, layout, spec.name, 0), shard_path(store, layout, spec.name, shard))


def _write_or_link(folder: Path, shard: int, texts: list[str] | None) -> None:
    if texts is not None:
        (folder / f"c.{shard}").write_bytes(encode_text(texts))
    elif shard:
        os.link(folder / "c.0", folder / f"c.{shard}")
