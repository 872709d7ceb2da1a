"""Drawing the plan of 1.2 million chips in a process of its own, against Earth Engine's `randomPoints`."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import Cost, measure
from benchmarks.overlaps import overlapping_pairs
from benchmarks.rows import Row, measured_row
from m3etl.io.plan import read_plan

chips = 1_200_000
batch_points = 5000  # most elements in one answer of the service
repository = Path(__file__).resolve().parent.parent


def run(*, quick: bool = True) -> list[Row]:
    """Seconds and peak memory of `m3etl sample`, leakage report included; what the same takes with `randomPoints`."""
    data = real_data()
    with tempfile.TemporaryDirectory(prefix="m3etl-bench-") as folder:
        source = ["--ecoregions", str(data / "ecoregions" / "Ecoregions2017.shp")] if data else ["--ee-url", "embedded"]
        measured = [_sample(Path(folder) / str(number), source) for number in range(1 if quick else 3)]
        _check_plan(Path(folder) / "0" / "chips.parquet")
        requests, seconds = _random_points(Path(folder), data, measured=2 if quick else 6)
    world = "the real ecoregions" if data else "the planet's ecoregions (no real ones here)"
    note = f"{measured[0][1]:,} chips with the reserve, over {world}; no two overlap, biomes differ by at most one chip"
    cpu = statistics.median(cost.processor_s for cost, _ in measured)
    rival = f"randomPoints by {batch_points}: {requests:,} requests"
    extrapolated = (
        f"wall time of the command on {os.cpu_count()} cores ({cpu:.1f} s of CPU), {note}; the rival's seconds are "
        f"{requests:,} requests of {seconds:.2f} s, measured one after another on the embedded Earth Engine for a few "
        "ecoregions and extrapolated; it rejects no overlaps and writes no plan"
    )
    return [
        measured_row(
            "sampling.seconds_1_2m",
            "s",
            [cost.seconds for cost, _ in measured],
            rival=rival,
            rival_value=requests * seconds,
            note=extrapolated,
        ),
        measured_row(
            "sampling.memory_mb_1_2m", "MB", [cost.peak_mb for cost, _ in measured], note=f"peak resident; {note}"
        ),
    ]


def real_data() -> Path | None:
    """The directory with real ecoregions, if there is one."""
    path = Path(os.environ.get("M3ETL_REAL_DATA") or repository.parent / "shared" / "data")
    return path if (path / "ecoregions" / "Ecoregions2017.shp").is_file() else None


def _sample(campaign: Path, source: list[str]) -> tuple[Cost, int]:
    """What one draw takes, and how many chips it gives."""
    command = [sys.executable, "-m", "m3etl", "-C", str(campaign), "--json", "sample", "--chips", str(chips), *source]
    cost = measure(command, campaign.with_suffix(".json"))
    summary = json.loads(campaign.with_suffix(".json").read_text())
    return cost, summary["chips"] + summary["reserve"]


def _check_plan(plan: Path) -> None:
    """RuntimeError where the plan is not what was asked for."""
    rows = read_plan(plan, ["biome", "reserve"])
    per_biome = rows["biome"][~rows["reserve"]].value_counts()
    if per_biome.sum() != chips or per_biome.max() - per_biome.min() > 1:
        raise RuntimeError(f"{chips:,} chips were asked for, balanced over the biomes: {per_biome.to_dict()}")
    if overlapping := overlapping_pairs(plan):
        raise RuntimeError(f"{overlapping:,} pairs of chips overlap")


def _random_points(folder: Path, data: Path | None, *, measured: int) -> tuple[int, float]:
    """Requests for all chips by the published rule, and the median seconds of `measured` of them."""
    from m3etl.emulator.process import start_embedded
    from m3etl.io.earthengine import open_session, read_ecoregions
    from m3etl.io.ecoregions import normalise_ecoregions
    from m3etl.spec.ecoregions import build_ecoregions

    log = folder / "requests.jsonl"
    archive = data if data and (data / "archive.jsonl").is_file() else None
    with (
        start_embedded(archive=archive, log=log) as server,
        open_session(url=server.url, project="") as session,
    ):
        table = normalise_ecoregions(read_ecoregions(session), "the table of ecoregions")
        known = build_ecoregions(
            eco_id=table["eco_id"].tolist(),
            name=table["eco_name"].tolist(),
            biome_name=table["biome_name"].tolist(),
            realm=table["realm"].tolist(),
            geometry=np.asarray(table.geometry.array, dtype=object),
        )
        share = known.area_km2 / np.bincount(known.biome, weights=known.area_km2)[known.biome]
        quota = np.floor(chips / len(np.unique(known.biome)) * share).astype(np.int64)
        requests = int(np.ceil(quota / batch_points).sum())
        before = len(log.read_text().splitlines())
        typical = np.argsort(quota)[np.linspace(len(quota) // 4, len(quota) - 1, measured).astype(int)]
        seconds = [_ask(session.api, int(known.eco_id[index]), int(quota[index])) for index in typical.tolist()]
        asked = len(log.read_text().splitlines()) - before
    if asked != measured:
        raise RuntimeError(f"{measured} batches took {asked} requests")
    return requests, statistics.median(seconds)


def _ask(api: Any, eco_id: int, points: int) -> float:
    """Seconds of one batch of points of an ecoregion."""
    started = time.perf_counter()
    region = api.FeatureCollection("RESOLVE/ECOREGIONS/2017").filter(api.Filter.eq("ECO_ID", eco_id)).geometry()
    found = api.FeatureCollection.randomPoints(region, min(points, batch_points), 1).getInfo()
    if len(found["features"]) != min(points, batch_points):
        raise RuntimeError(f"{len(found['features'])} points instead of {points}")
    return time.perf_counter() - started
