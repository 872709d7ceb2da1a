"""Normalising Sentinel-2 on the CPU against the loops in use, and all arrays on a GPU against its memory bandwidth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.synthetic import chip_m, make_chip, specs
from m3etl.compute.device import BatchNormalizer
from m3etl.compute.normalize import Normalizer
from m3etl.compute.stats import start_counts, summarise
from m3etl.spec.modality import ArraySpec

Row = dict[str, Any]
Arrays = dict[str, np.ndarray]
batch_size = 64
gpu_batch_size = 1024
different_chips = 24  # made one by one; batches repeat them, which no measurement here can notice


def run(*, quick: bool = True) -> list[Row]:
    """All rows of this file; those of the GPU only where there is one."""
    runs = 5 if quick else 15
    chips = [make_chip(number) for number in range(different_chips)]
    stats = {spec.name: _statistics(spec, chips) for spec in specs}
    rows = _on_cpu(chips, stats, runs)
    if torch.cuda.is_available():
        rows += _on_gpu(chips, stats, runs)
    return rows


def _statistics(spec: ArraySpec, chips: list[Arrays]) -> dict[str, Any]:
    counts = start_counts(spec)
    for chip in chips:
        if spec.name in chip:
            counts.add(chip[spec.name])
    return summarise(spec, counts)


def _stacked(spec: ArraySpec, chips: list[Arrays], count: int) -> torch.Tensor:
    fill = np.full(spec.chip_shape(chip_m), spec.fill_value())
    return torch.from_numpy(np.stack([chips[row % len(chips)].get(spec.name, fill) for row in range(count)]))


def _on_cpu(chips: list[Arrays], stats: Mapping[str, Any], runs: int) -> list[Row]:
    """To bf16 and validity: our kernels with reused results, the published loop, the same in whole-batch torch."""
    spec = next(spec for spec in specs if spec.name == "sentinel2_l2a")
    batch = {spec.name: _stacked(spec, chips, batch_size)}
    stored = batch[spec.name]
    normalizer = Normalizer.from_stats(stats, [spec])
    known = [stats[spec.name][band] for band in spec.bands]
    mean, std = (np.array([item[name] for item in known])[:, None, None] / spec.scale for name in ("mean", "std"))
    out = normalizer(batch, torch.bfloat16)

    def ours() -> float:
        return _rate(stored, lambda: normalizer(batch, torch.bfloat16, out), times=5)

    def loop() -> float:
        return _rate(stored, lambda: _published(stored.numpy(), mean, std, spec.fill))

    def eager() -> float:
        return _rate(stored, lambda: _whole_batch(stored, torch.from_numpy(mean), torch.from_numpy(std), spec.fill))

    for once in (ours, loop, eager):
        once()
    timed = [(ours(), loop(), eager()) for _ in range(runs)]
    threads = torch.get_num_threads()
    note = f"GB/s of stored Sentinel-2, {batch_size} chips, {threads} threads, result memory reused; the loop has one"
    return [
        _row("normalize.cpu_vs_float64_loop", [(a, b) for a, b, _ in timed], "float64 numpy, tile by tile", note),
        _row("normalize.cpu_vs_eager_torch", [(a, c) for a, _, c in timed], "whole-batch eager torch", note),
    ]


def _published(tiles: np.ndarray, mean: np.ndarray, std: np.ndarray, fill: int | None) -> torch.Tensor:
    """What the published loaders do: each tile in float64, gaps to NaN, float32, a tensor; stacked; then to bf16."""
    found = []
    for tile in tiles:
        values = (tile - mean) / std
        found.append(torch.from_numpy(np.where(tile == fill, np.nan, values).astype(np.float32)))
    return torch.stack(found).to(torch.bfloat16)


def _whole_batch(stored: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, fill: int | None) -> torch.Tensor:
    wide = stored.to(torch.int32)
    valid = wide != fill
    values = ((wide.float() - mean.float()) / std.float()).clamp(-10, 10)
    return torch.where(valid, values, 0.0).to(torch.bfloat16)


def _rate(stored: torch.Tensor, action: Callable[[], object], times: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(times):
        action()
    return times * stored.nbytes / 1e9 / (time.perf_counter() - started)


def _row(bench: str, pairs: list[tuple[float, float]], rival: str, note: str) -> Row:
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "bench": bench,
        "value": statistics.median(ratios),
        "unit": "ratio",
        "rival": rival,
        "rival_value": statistics.median(theirs for _, theirs in pairs),
        "runs": len(pairs),
        "spread": [min(ratios), max(ratios)],
        "note": f"{note}; ours {statistics.median(ours for ours, _ in pairs):.3g}",
    }


def _on_gpu(chips: list[Arrays], stats: Mapping[str, Any], runs: int) -> list[Row]:
    """Compiled kernels against bytes over bandwidth, and batches from the host against copying them alone."""
    device = torch.device("cuda")
    host = {spec.name: _stacked(spec, chips, gpu_batch_size) for spec in specs}
    there = {name: values.to(device) for name, values in host.items()}
    normalizer = Normalizer.from_stats(stats, specs).to(device)
    normalizer.compile(fullgraph=True, dynamic=False)
    out = normalizer(there, torch.bfloat16)
    moved = sum(part.nbytes for part in (*there.values(), *out.values()))
    bandwidth = _copy_bandwidth(device)
    floor_ms = moved / bandwidth * 1e3
    found_ms = [_milliseconds(lambda: normalizer(there, torch.bfloat16)) for _ in range(runs)]
    note = (
        f"milliseconds, lower is better; all arrays of {gpu_batch_size} chips to bf16 with validity on "
        f"{torch.cuda.get_device_name()}, {moved / 1e6:.0f} MB in and out, copy bandwidth {bandwidth / 1e12:.2f} TB/s"
    )
    floor = _row("normalize.gpu_vs_floor", [(found, floor_ms) for found in found_ms], "bytes over bandwidth", note)
    return [floor, _stream_against_copy(host, stats, runs)]


def _stream_against_copy(host: Mapping[str, torch.Tensor], stats: Mapping[str, Any], runs: int) -> Row:
    """Batches that are filled, copied and normalised, against copying the same page-locked bytes and nothing else."""
    shapes = {spec.name: (spec.chip_shape(chip_m), spec.dtype) for spec in specs}
    normalizer = Normalizer.from_stats(stats, specs)
    runner = BatchNormalizer(normalizer, shapes, batch_size=gpu_batch_size, device="cuda", dtype=torch.bfloat16)
    batches = [np.arange(gpu_batch_size)] * 8
    pinned = {name: values.pin_memory() for name, values in host.items()}
    there = {name: torch.empty_like(values, device="cuda") for name, values in host.items()}
    bytes_moved = len(batches) * sum(values.nbytes for values in host.values())

    def streamed() -> float:
        started = time.perf_counter()
        for _ in runner.run(batches, lambda rows, buffers: None):
            pass
        torch.cuda.synchronize()
        return (time.perf_counter() - started) * 1e3

    def copied() -> float:
        started = time.perf_counter()
        for _ in batches:
            for name, values in pinned.items():
                there[name].copy_(values, non_blocking=True)
        torch.cuda.synchronize()
        return (time.perf_counter() - started) * 1e3

    streamed(), copied()
    pairs = [(streamed(), copied()) for _ in range(runs)]
    gigabytes = bytes_moved / 1e9
    note = f"milliseconds for {gigabytes:.1f} GB of stored integers, without reading them; lower is better"
    return _row("normalize.gpu_stream_vs_copy", pairs, "page-locked copies alone", note)


def _copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by copying 1 GiB on the device."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (_milliseconds(lambda: target.copy_(source)) / 1e3)


def _milliseconds(action: Callable[[], object], times: int = 20) -> float:
    action()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        action()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / times


if __name__ == "__main__":
    from benchmarks.__main__ import as_line

    for row in run():
        print(as_line(row), "-", row["note"])
