"""In which order an epoch goes through the chips, and which of them a rank sees at which step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from m3etl.errors import InputError
from m3etl.spec.hashing import stream

shuffles = ("window", "none", "full")
window_shards = 8  # shards whose chips are mixed: 2,048 chips at the usual size, read from 8 files per array
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The chips of one rank, step by step, as a function of (seed, epoch) alone.

    Each step takes the next batch_size x world_size chips of the epoch's order and gives every rank its own part. The
    last step is smaller (parts equal on all ranks; chips of the start fill the gap) or left out with drop_last.
    """

    rows: Rows
    shard_chips: int
    batch_size: int
    shuffle: str = "window"
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.batch_size < 1:
            problems.append(f"batch_size must be at least 1, found {self.batch_size}")
        if self.shuffle not in shuffles:
            problems.append(f"shuffle must be one of {', '.join(shuffles)}, found {self.shuffle}")
        if not 0 <= self.rank < self.world_size:
            problems.append(f"rank must lie in [0, {self.world_size}), found {self.rank}")
        if not problems and not self.steps:
            problems.append(f"{self.rows.size} chips fill no batch of {self.step_chips} and drop_last drops the rest")
        if problems:
            raise InputError("the loader cannot start: " + "; ".join(problems))

    @property
    def step_chips(self) -> int:
        """Chips that all ranks together take in a full step."""
        return self.batch_size * self.world_size

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on every rank."""
        count = self.rows.size / self.step_chips
        return math.floor(count) if self.drop_last else math.ceil(count)

    def of_epoch(self, epoch: int) -> Rows:
        """All chips in the order of this epoch, for all ranks."""
        if self.shuffle == "none":
            return self.rows
        generator = stream(self.seed, "order", epoch)
        if self.shuffle == "full":
            return generator.permutation(self.rows)
        shards = self.rows // self.shard_chips
        place_of_shard = generator.permutation(int(shards.max()) + 1)
        windows = place_of_shard[shards] // window_shards
        order = self.rows[np.argsort(windows.astype(np.min_scalar_type(int(windows.max()))), kind="stable")]
        ends = np.cumsum(np.bincount(windows)).tolist()
        for first, end in pairwise([0, *ends]):
            generator.shuffle(order[first:end])
        return order

    def of_step(self, order: Rows, step: int) -> Rows:
        """The chips of this rank at a step of the epoch whose `order` is given."""
        first = step * self.step_chips
        part = order[first : first + self.step_chips]
        if part.size == self.step_chips:
            return part[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        share = -(-part.size // self.world_size)
        padded = np.resize(np.concatenate([part, order]), max(part.size, share * self.world_size))
        return padded[self.rank * share : (self.rank + 1) * share]
