"""Chips through the quota: m3etl, its rivals and an MMEarth-style client over the embedded Earth Engine with the work
taken out (`light_server`), behind a gate of 40 requests at a time and 100 a second.

m3etl fetches thousands of chips, so that the second in which it has nothing but questions to send weighs little; its
rivals, which are steady from their first request on, fetch some of the same chips, and chips a second are compared.
The server has a process of its own; clients and server share the machine's cores, so chips are small (64 px, all
modalities) to let the gate and not the cores be the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rivals import rival_python, run_rival
from benchmarks.rows import Row, measured_row
from m3etl.campaign import open_campaign
from m3etl.io.ledger import open_ledger
from m3etl.io.plan import read_plan

folder = Path(__file__).parent
concurrency, per_second, chip_px = 40, 100.0, 64
constant = {"latency_ms": 300}
modelled = {"latency_ms": 150, "band_ms": 2, "scene_ms": 1}
bound = min(per_second, concurrency / 0.3)
# Chips of a run, so that it takes seconds and not minutes: rivals are steady from the first second on.
counts = {"xee": 8, "geedim": 1, "cubexpress": 16, "cubexpress_40": 64, "mmearth": 40}
quick_counts = {"cubexpress": 16, "mmearth": 40}
whole_chips, quick_chips, first_chips = 6000, 300, 1200  # first: asked for before anything is measured
documented, tuned = ("xee", "geedim", "cubexpress"), ("cubexpress_40",)


def run(*, quick: bool = True) -> list[Row]:
    """All rows of this file; rivals that can't be installed are left out aloud."""
    chips = quick_chips if quick else whole_chips
    rounds = 3
    with tempfile.TemporaryDirectory(prefix="m3etl-bench-") as name, _server() as server:
        root = Path(name)
        small, task = _prepare(root, server, min(chips, first_chips))
        plan = _draw(root / "many", server, chips) if chips > first_chips else small
        raw = [server.raw_rate(2000) for _ in range(3)]
        _tell(f"server alone: {statistics.median(raw):.0f} requests/s")
        python = rival_python("acquisition")
        ours, theirs = [], []
        for number in range(rounds):
            ours.append(_export(root, plan, server, constant))
            _tell(f"m3etl, {chips} chips, 300 ms: {_described(ours[-1], bound)}")
            if python is not None and (number == 0 or not quick):
                wanted = quick_counts if quick else counts
                theirs.append({rival: _fetch(python, task, server, rival, wanted[rival]) for rival in wanted})
        merged = []
        for _ in range(1 if quick else rounds):
            merged.append(_export(root, plan, server, modelled))
            _tell(f"m3etl, {chips} chips, modelled latency: {_described(merged[-1], merged[-1].bound)}")
    return [*_own_rows(ours, chips, raw), *_modelled_rows(merged, chips), *_peer_rows(ours, theirs)]


@dataclass(frozen=True)
class Measured:
    """What one client did: chips, seconds from its first request to its last answer, the server's counts, memory."""

    chips: int
    stats: dict[str, Any]
    memory_mb: float = 0.0
    planning: int = 0
    processor_s: float = 0.0

    @property
    def chips_per_second(self) -> float:
        return self.chips / self.stats["seconds"]

    @property
    def requests_per_chip(self) -> float:
        return self.stats["requests"] / self.chips

    @property
    def pixel_rate(self) -> float:
        """Accepted pixel requests a second, from the arrival of the first to that of the last."""
        return (self.stats["pixel_requests"] - 1) / self.stats["pixel_seconds"]

    @property
    def rate(self) -> float:
        """Requests a second, questions too, from the arrival of the first to the last answer."""
        return float(self.stats["requests"] / self.stats["seconds"])

    @property
    def bound(self) -> float:
        """Requests a second that the gate lets through at the mean latency of the pixel requests."""
        return min(per_second, concurrency / float(self.stats["pixel_latency_s"]))

    @property
    def refused(self) -> int:
        return int(self.stats["statuses"].get("429", 0))


class Server:
    """The running light server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def reset(self, *, gated: bool = True, **latency: float) -> None:
        """Start to count anew."""
        query = "&".join(f"{key}={value}" for key, value in {**latency, "gated": int(gated)}.items())
        self._get(f"/light/reset?{query}")

    def stats(self) -> dict[str, Any]:
        """Counts since the last reset."""
        return self._get("/light/stats")

    def raw_rate(self, count: int) -> float:
        """Pixel answers a second over plain sockets, without gate or latency: what the server alone can do."""
        self.reset(gated=False)
        started = time.monotonic()
        asyncio.run(_ask_raw(self.url, count))
        return count / (time.monotonic() - started)

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return dict(json.load(answer))


@contextlib.contextmanager
def _server() -> Iterator[Server]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.light_server"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder.parent)
    try:
        yield Server(json.loads(process.stdout.readline())["url"])
    finally:
        process.stdin.close()
        process.wait(30)


async def _ask_raw(url: str, count: int) -> None:
    host, port = url.removeprefix("http://").split(":")
    with urllib.request.urlopen(f"{url}/light/sample", timeout=30) as answer:
        body = answer.read()
    head = f"POST /v1/projects/p/image:computePixels HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"

    async def client(share: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 22)
        for _ in range(share):
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(client(count // concurrency) for _ in range(concurrency)))


def _prepare(root: Path, server: Server, chips: int) -> tuple[Path, Path]:
    """The plan of all exports, and the rivals' task over some of its chips; the server has seen everything once."""
    plan = _draw(root / "plan", server, chips)
    _export(root, plan, server, {}, gated=False)  # whoever asks first decides what is replayed to the others
    _export(root, plan, server, {}, gated=False, keep=root / "warm")
    task = root / "task.json"
    latency = "&".join(f"{key}={value}" for key, value in constant.items())
    task.write_text(json.dumps({"url": server.url, "latency": latency, "chips": _rivals_chips(root / "warm", 3)}))
    return plan, task


def _draw(plan: Path, server: Server, chips: int) -> Path:
    server.reset(gated=False)
    _m3etl(plan, "sample", "--chips", str(chips), "--chip-px", str(chip_px), "--ee-url", server.url)
    config = plan / "campaign.toml"
    # The check band carries coordinates, which constant pixels can't.
    config.write_text(config.read_text().replace("check_every = 50", "check_every = 0"))
    return plan


def _m3etl(campaign: Path, *arguments: str) -> tuple[dict[str, Any], float, float]:
    """Summary of a command, the most memory it held, in MB, and its seconds of processor time."""
    command = [sys.executable, "-W", "ignore", "-m", "m3etl", "--json", "-C", str(campaign), *arguments]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"m3etl {arguments[0]} ended with {process.returncode}: {errors.read()[-800:].decode()}")
    return json.loads(output), usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def _export(
    root: Path, plan: Path, server: Server, latency: dict[str, float], *, gated: bool = True, keep: Path | None = None
) -> Measured:
    campaign = keep or root / "export"
    shutil.copytree(plan, campaign)
    server.reset(gated=gated, **latency)
    summary, memory, processor = _m3etl(campaign, "export", "--ee-url", server.url)
    stats = server.stats()
    if keep is None:
        shutil.rmtree(campaign)
    return Measured(int(summary["done"]), stats, memory, int(summary["planning requests"]), processor)


def _rivals_chips(campaign: Path, count: int) -> list[dict[str, Any]]:
    opened = open_campaign(campaign)
    plan = {row.chip_id: row for row in read_plan(opened.plan_path).itertuples()}
    ledger = open_ledger(opened.ledger_path)
    try:
        records = ledger.shard_records(0, shard_chips=int(ledger.read_meta("shard_chips")))[:count]
    finally:
        ledger.close()
    return [_rivals_chip(record, plan[record.chip_id]) for record in records]


def _rivals_chip(record: Any, place: Any) -> dict[str, Any]:
    from m3etl.spec.catalog import find_array

    scenes = {
        name: {"ids": list(item.scene_ids), "bands": list(find_array(name).bands)}
        for name, item in record.scenes.arrays.items()
        if item.status == "ok" and item.scene_ids
    }
    return {
        "epsg": int(place.epsg),
        "xmin": float(place.xmin),
        "ymax": float(place.ymax),
        "lon": float(place.lon),
        "lat": float(place.lat),
        "year": int(record.scenes.year),
        "px": chip_px,
        "scenes": scenes,
    }


def _fetch(python: Path, task: Path, server: Server, rival: str, count: int) -> Measured:
    """One run of a rival, after it has shown the server its requests without gate and latency."""
    task.write_text(json.dumps({**json.loads(task.read_text()), "count": count}))
    server.reset(gated=False)
    done = run_rival(python, folder / "rival_acquisition.py", rival, str(task))
    measured = Measured(int(done["done"]) or 1, server.stats())
    _tell(f"{rival}: {measured.chips} chips, {measured.chips_per_second:.2f} chips/s")
    return measured


def _described(measured: Measured, limit: float) -> str:
    return (
        f"{measured.chips_per_second:.1f} chips/s, {measured.rate / limit:.3f} of the gate's ceiling, "
        f"{measured.pixel_rate / limit:.3f} between the first and the last pixel request, "
        f"{measured.refused} refused, {1000 * measured.processor_s / measured.chips:.1f} ms of processor time a chip"
    )


def _tell(text: str) -> None:
    print(f"acquisition: {text}", file=sys.stderr, flush=True)


# --- rows -------------------------------------------------------------------------------------------------------------


def _own_rows(ours: list[Measured], chips: int, raw: list[float]) -> list[Row]:
    first = ours[0]
    note = (
        f"{chips} chips of {chip_px} px, all modalities; 300 ms latency, gate {concurrency} at a time and "
        f"{per_second:.0f}/s, bound min(100, 40/0.3) = {bound:.0f}/s; server alone {statistics.median(raw):.0f}/s"
    )
    pixels = [item.pixel_rate / bound for item in ours]
    whole = [item.rate / bound for item in ours]
    processor = statistics.median(1000 * item.processor_s / item.chips for item in ours)
    facts = (
        f"peak in flight {max(item.stats['peak_in_flight'] for item in ours)}, "
        f"429s {sum(item.refused for item in ours)}, {first.planning} planning requests, "
        f"{first.stats['bytes'] / 1e6:.0f} MB"
    )
    return [
        measured_row(
            "acquisition.ceiling_fraction",
            "fraction",
            whole,
            rival="the gate",
            rival_value=1.0,
            note=f"the whole run, from the first question to the last answer; {note}; {processor:.1f} ms of processor "
            "time a chip, start included",
        ),
        measured_row(
            "acquisition.ceiling_fraction_pixels",
            "fraction",
            pixels,
            rival="the gate",
            rival_value=1.0,
            note=f"from the first pixel request to the last, planning beside them; {facts}",
        ),
        measured_row(
            "acquisition.requests_per_chip",
            "requests",
            [item.requests_per_chip for item in ours],
            rival="MMEarth's downloader",
            rival_value=22.0,
            note=f"planning included; {facts}",
        ),
        measured_row(
            "acquisition.peak_memory_mb",
            "MB",
            [item.memory_mb for item in ours],
            note=f"most resident memory of the exporting process; {note}",
        ),
        measured_row(
            "acquisition.server_alone", "requests/s", raw, note="the same pixel request over 40 plain sockets"
        ),
    ]


def _modelled_rows(merged: list[Measured], chips: int) -> list[Row]:
    limits = [item.bound for item in merged]
    values = [item.rate / item.bound for item in merged]
    mean = statistics.median(item.stats["pixel_latency_s"] for item in merged)
    note = (
        f"latency 150 ms + 2 ms a band + 1 ms an input scene, {mean * 1000:.0f} ms on average, so that merging is not "
        f"free; the whole run of {chips} chips; bound min(100, 40/latency) = {limits[0]:.0f}/s"
    )
    name = "acquisition.ceiling_fraction_modelled"
    return [measured_row(name, "fraction", values, rival="the gate", rival_value=1.0, note=note)]


def _peer_rows(ours: list[Measured], theirs: list[dict[str, Measured]]) -> list[Row]:
    groups = (
        (
            "acquisition.vs_best_peer",
            documented,
            "as documented: default workers, a request per modality, scenes given",
        ),
        ("acquisition.vs_tuned_peer", tuned, "the best peer with 40 workers instead of its 8, scenes given"),
        ("acquisition.vs_mmearth", ("mmearth",), "its requests one after the other, 40 chips side by side"),
    )
    rows = []
    for bench, wanted, how in groups:
        names = [name for name in wanted if theirs and name in theirs[0]]
        if not names:
            continue
        speed = {name: statistics.median(peer[name].chips_per_second for peer in theirs) for name in names}
        best = max(names, key=lambda name: speed[name])
        ratios = [
            own.chips_per_second / peer[best].chips_per_second
            for own, peer in zip(ours, theirs * len(ours) if len(theirs) == 1 else theirs, strict=False)
        ]
        mine = statistics.median(own.chips_per_second for own in ours)
        note = f"{how}; m3etl {mine:.1f} chips/s with its planning; "
        note += "; ".join(_said(name, theirs[0][name]) for name in names)
        rows.append(measured_row(bench, "ratio", ratios, rival=f"{best}, chips/s", rival_value=speed[best], note=note))
    return rows


def _said(name: str, first: Measured) -> str:
    return (
        f"{name} {first.chips_per_second:.2f} chips/s, {first.requests_per_chip:.1f} requests a chip, "
        f"peak {first.stats['peak_in_flight']}, 429s {first.refused}"
    )
