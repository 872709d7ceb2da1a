"""Which chip has which array: the outer join of the plan with every record, as a table and as counts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from m3etl.campaign import Campaign
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.plan import read_plan
from m3etl.io.provenance import read_provenance, recorded_shards
from m3etl.io.store import open_store
from m3etl.spec.jobs import ArrayStatus

plan_columns = ("chip_id", "row", "region", "split", "year")
# As in provenance/; pending: the chip is planned and not exported yet, or the array is newer than the chip.
statuses = ("pending", *(str(item) for item in ArrayStatus if item is not ArrayStatus.PENDING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """chips: the planned chips (reserves only where one is in use), with `plan_columns`; codes: (chip, array) into
    `statuses`.
    """

    chips: pd.DataFrame
    arrays: tuple[str, ...]
    codes: npt.NDArray[np.int8]

    def table(self) -> pd.DataFrame:
        """One row per chip: the columns of the plan, then the status of each array (as array_NAME where the plan has a
        column NAME).
        """
        columns = {
            f"array_{name}" if name in plan_columns else name: pd.Categorical.from_codes(
                self.codes[:, index], categories=pd.Index(statuses)
            )
            for index, name in enumerate(self.arrays)
        }
        return pd.concat([self.chips, pd.DataFrame(columns, index=self.chips.index)], axis=1)

    def facts(self) -> dict[str, Any]:
        """Counts for people: by status, and of the chips with an observation by region and by split."""
        present = self.codes == statuses.index("ok")
        facts: dict[str, Any] = {"chips with every array": int(present.all(axis=1).sum())}
        counts = {name: (self.codes == code).sum(axis=0) for code, name in enumerate(statuses)}
        shown = [name for name, count in counts.items() if count.any()]
        facts["presence"] = [
            {"array": array, **{name: int(counts[name][index]) for name in shown}}
            for index, array in enumerate(self.arrays)
        ]
        for column in ("region", "split"):
            of_chip = self.chips[column].fillna("").to_numpy().astype(str)
            groups = {name or "none": of_chip == name for name in np.unique(of_chip)}
            facts[f"presence by {column}"] = [
                {"array": "(all chips)", **{name: int(mine.sum()) for name, mine in groups.items()}},
                *(
                    {"array": array, **{name: int((present[:, index] & mine).sum()) for name, mine in groups.items()}}
                    for index, array in enumerate(self.arrays)
                ),
            ]
        return facts


def find_presence(campaign: Campaign) -> Presence:
    """The status of every array for every planned chip, read shard by shard.

    Raises NothingSelectedError before anything is exported, DamagedError for an unreadable record.
    """
    if not campaign.store_path.exists():
        raise NothingSelectedError("there are no arrays yet that a chip could have", hint="Run `m3etl export` first.")
    store = open_store(campaign.store_path)
    plan = read_plan(campaign.plan_path, columns=[*plan_columns, "reserve"])
    chips = plan[~plan["reserve"] | (plan["row"] >= 0)][list(plan_columns)].reset_index(drop=True)
    place = pd.Index(chips["chip_id"])
    shard_of_chip = chips["row"].to_numpy() // store.shard_chips
    arrays = tuple(store.specs)
    codes = np.zeros((len(chips), len(arrays)), dtype=np.int8)
    for shard in recorded_shards(campaign.provenance_path):
        records = read_provenance(campaign.provenance_path, [shard])
        row, column = (
            place.get_indexer(pd.Index(records["chip_id"])),
            pd.Index(arrays).get_indexer(pd.Index(records["array"])),
        )
        # A chip that failed and was fetched later has records in two shards; the one of its row counts.
        known = (row >= 0) & (column >= 0)
        known[known] = shard_of_chip[row[known]] == shard
        status = pd.Index(statuses).get_indexer(pd.Index(records["status"]))[known]
        codes[row[known], column[known]] = np.maximum(status, 0)
    return Presence(chips=chips, arrays=arrays, codes=codes)


def write_presence(path: Path, presence: Presence) -> None:
    """Write the table as Parquet, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        presence.table().to_parquet(temporary, index=False, compression="zstd")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        hint = "Free some space or make the directory writable."
        raise InputError(f"cannot write {path}: {error.strerror}", hint=hint) from error
