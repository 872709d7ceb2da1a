"""The ledger of a large campaign: reading the plan in, `status`, and taking up a run that was left almost done.

Each figure comes from a process of its own, so that its peak memory is its own too.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from benchmarks.rows import Row, measured_row
from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, create_campaign, open_campaign
from m3etl.io.ledger import open_ledger
from m3etl.io.lots import chips_of_lot, fix_lot, open_lots
from m3etl.io.plan import PlanWriter, batch_rows, chip_id_array
from m3etl.spec.lattice import Cells
from m3etl.stages.export import run_export
from m3etl.stages.layout import fix_layout
from m3etl.stages.scheduling import count_planned, form_open_lots, read_plan_into
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress

whole_chips = 4_000_000
quick_chips = 100_000
cell_m = 1280
failures_in = 1000  # one chip in so many failed


def run(*, quick: bool = True) -> list[Row]:
    """All rows of this file; `machine` and `commit` are added by the caller."""
    chips = quick_chips if quick else whole_chips
    size = f"{chips:,} chips" + (" (quick: a fortieth of the size that the name says)" if quick else "")
    directory = Path(tempfile.mkdtemp(prefix="m3etl-bench-"))
    try:
        root = directory / "c"
        _write_plan(root, chips)
        taken_in = [_child("take_in", root)]
        _seal_all(open_campaign(root))
        status = [_child("status", root) for _ in range(3 if quick else 5)]
        typed = [_command_seconds(root) for _ in range(3 if quick else 5)]
        scans = [_scan_seconds(root / "ledger.sqlite") for _ in range(3)]
        resumed = [_child("resume", root) for _ in range(3)]
        held = [_child("hold", root) for _ in range(1 if quick else 3)]
        nbytes = (root / "ledger.sqlite").stat().st_size
    finally:
        shutil.rmtree(directory)
    return [
        measured_row(
            "ledger.status_seconds_4m",
            "seconds",
            [item["seconds"] for item in status],
            rival="counting the states by a scan of the same ledger",
            rival_value=statistics.median(scans),
            note=f"{size}, ledger of {nbytes / 1e6:.0f} MB without scenes; the call alone, imports not counted",
        ),
        measured_row(
            "ledger.status_command_seconds_4m",
            "seconds",
            typed,
            rival="the limit",
            rival_value=1.0,
            note=f"{size}; `m3etl status` as typed, from its start to its end",
        ),
        measured_row(
            "ledger.resume_seconds_4m",
            "seconds",
            [item["seconds"] for item in resumed],
            note=f"{size}; `export` on a campaign where all is sealed or failed, up to its summary; the first one also "
            f"writes every chip's row into the plan, {resumed[0]['seconds']:.1f} s",
        ),
        measured_row(
            "ledger.resume_memory_mb_4m",
            "MB",
            [item["peak_mb"] for item in resumed],
            rival="plan as a table and states as a dict, as before",
            rival_value=statistics.median(item["peak_mb"] for item in held),
            note=f"{size}; peak of the process, of which about {resumed[0]['base_mb']:.0f} MB are the imports",
        ),
        measured_row(
            "ledger.take_in_seconds_4m",
            "seconds",
            [item["seconds"] for item in taken_in],
            note=f"{size}; once for each campaign: the plan is read, ordered and cut into lots; peak "
            f"{taken_in[0]['peak_mb']:.0f} MB",
        ),
    ]


# --- a campaign that needs no Earth Engine ----------------------------------------------------------------------------


def _write_plan(root: Path, chips: int) -> None:
    config = CampaignConfig(sample=SampleConfig(strategy="points", chip_px=cell_m // 10))
    campaign = create_campaign(root, config)
    with PlanWriter(campaign.plan_path) as writer:
        for start in range(0, chips, batch_rows):
            writer.write(_plan_table(np.arange(start, min(chips, start + batch_rows), dtype=np.int64)))


def _plan_table(number: np.ndarray) -> pa.Table:
    place = number // 60
    cells = Cells(cell_m=cell_m, epsg=32601 + number % 60, column=200 + place % 350, row=100 + place // 350)
    west, south, east, north = cells.bounds_xy
    lon, lat = cells.centre_lonlat
    count = len(number)
    return pa.table(
        {
            "chip_id": chip_id_array(cells),
            "row": np.full(count, -1),
            "generation": np.full(count, -1, dtype=np.int32),
            "epsg": cells.epsg.astype(np.int32),
            "xmin": west,
            "ymin": south,
            "xmax": east,
            "ymax": north,
            "lon": lon,
            "lat": lat,
            "biome": (number % 14).astype(np.int16),
            "ecoregion": (number % 800).astype(np.int32),
            "realm": ["Bench"] * count,
            "region": ["globe"] * count,
            "year": (2017 + number % 4).astype(np.int16),
            "split": ["train"] * count,
            "reserve": np.zeros(count, dtype=bool),
        }
    )


def _seal_all(campaign: Campaign) -> None:
    """Every chip gets its row as an export gives it, and is marked as sealed or failed by one statement."""
    with closing(open_ledger(campaign.ledger_path)) as ledger:
        shard_chips = int(ledger.read_meta("shard_chips"))
        for lot in open_lots(ledger):
            fix_lot(ledger, lot, [item.number for item in chips_of_lot(ledger, lot)], [], shard_chips=shard_chips)
        with ledger.file.transaction() as connection:
            connection.execute(
                f"UPDATE chips SET state = iif(number % {failures_in}, 'sealed', 'failed'), "
                f"kind = iif(number % {failures_in}, '', 'deterministic'), "
                f"reason = iif(number % {failures_in}, '', 'User memory limit exceeded.')"
            )
            connection.execute("UPDATE shards SET final = chips, sealed = 1")
        ledger.add_totals({"planning_requests": 1e5, "pixel_requests": 4e6, "bytes": 4e12, "seconds": 4e4})
        ledger.write_meta("last_run", {"chips": 1_000_000, "seconds": 10_500.0})


# --- what is measured, each in a process of its own -------------------------------------------------------------------


def _child(what: str, root: Path) -> Row:
    command = [sys.executable, "-m", "benchmarks.bench_ledger", what, str(root)]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{what} failed: {result.stderr[-2000:]}")
    measured: Row = json.loads(result.stdout.splitlines()[-1])
    return measured


def _peak_mb() -> float:
    # Not ru_maxrss: that starts at the peak of the process which started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def _take_in(campaign: Campaign) -> None:
    with closing(open_ledger(campaign.ledger_path)) as ledger:
        layout = fix_layout(campaign, ledger, ("worldcover",), lambda: count_planned(campaign))
        read_plan_into(ledger, campaign, SilentProgress())
        form_open_lots(ledger, campaign, layout)


def _resume(campaign: Campaign) -> None:
    silent = SimpleNamespace(restricted=False, profile_requests=0, api=None)
    summary = run_export(campaign, session=silent, progress=SilentProgress())  # type: ignore[arg-type]
    if summary.done + summary.failed != count_planned(campaign):
        raise RuntimeError(f"{summary.done} and {summary.failed} chips are not the whole plan")


def _hold(campaign: Campaign) -> None:
    """How exports kept a campaign in mind before: the plan as one table, the states of all chips in a dict."""
    import pandas as pd

    from m3etl.io.plan import iterate_plan

    plan = pd.concat(iterate_plan(campaign.plan_path), ignore_index=True)
    with closing(sqlite3.connect(campaign.ledger_path)) as connection:
        states = dict(connection.execute("SELECT chip_id, state FROM chips"))
    places = plan.set_index("chip_id")[["epsg", "xmin", "ymax"]]
    if len(states) != len(places):
        raise RuntimeError("plan and ledger differ")


def _status(campaign: Campaign) -> None:
    if read_status(campaign).failed == 0:
        raise RuntimeError("the failures are not seen")


def _command_seconds(root: Path) -> float:
    command = [sys.executable, "-m", "m3etl", "-C", str(root), "status"]
    started = time.perf_counter()
    subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, check=True)
    return time.perf_counter() - started


def _scan_seconds(path: Path) -> float:
    started = time.perf_counter()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT state, COUNT(*) FROM chips GROUP BY state").fetchall()
        connection.execute("SELECT kind, reason, COUNT(*) FROM chips WHERE +state = 'failed' GROUP BY 1, 2").fetchall()
    return time.perf_counter() - started


def main() -> None:
    """One measurement: seconds, memory at the start and peak memory in MB, as one JSON line."""
    what, campaign = sys.argv[1], open_campaign(Path(sys.argv[2]))
    base_mb, started = _peak_mb(), time.perf_counter()
    {"take_in": _take_in, "resume": _resume, "hold": _hold, "status": _status}[what](campaign)
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"seconds": seconds, "base_mb": base_mb, "peak_mb": _peak_mb()}) + "\n")


if __name__ == "__main__":
    main()
