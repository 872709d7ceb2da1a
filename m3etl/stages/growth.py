"""What a plan holds already when chips are added to it, and which requests can be added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from m3etl.campaign import Campaign, SampleConfig
from m3etl.errors import InputError
from m3etl.io.plan import cells_of_rows, extra_types, iterate_tables

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The chips that stay as they are. `keys`: sorted keys of their cells; `planned`: chips by ecoregion id.

    `fixed_only`: chips without a generation do not stay.
    """

    campaign: Campaign
    fixed_only: bool
    keys: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    planned: Mapping[int, int] = field(default_factory=dict)
    extra: Mapping[str, pa.DataType] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def tables(self) -> Iterator[pa.Table]:
        """The rows that stay, as they are on disk."""
        if len(self):
            for table in iterate_tables(self.campaign.plan_path):
                yield _staying(table, fixed_only=self.fixed_only)


def read_present(campaign: Campaign, *, fixed_only: bool) -> Present:
    """What stays of the campaign's plan. Raises InputError where its chips have another size than is asked for."""
    if not campaign.plan_path.exists():
        return Present(campaign=campaign, fixed_only=fixed_only)
    keys = [np.zeros(0, dtype=np.int64)]
    planned: Counter[int] = Counter()
    columns = ["epsg", "xmin", "ymin", "xmax", "generation", "ecoregion", "reserve"]
    for table in iterate_tables(campaign.plan_path, columns):
        rows = _staying(table, fixed_only=fixed_only)
        if len(rows) == 0:
            continue
        cells = cells_of_rows(rows)
        if cells.cell_m != campaign.chip_m:
            raise InputError(
                f"the campaign holds chips of {cells.cell_m:g} m, and {campaign.chip_m:g} m are asked for",
                hint="A data set has chips of one size: use another directory with `m3etl -C DIR`.",
            )
        keys.append(cells.key)
        ids, counts = np.unique(rows["ecoregion"].to_numpy()[~rows["reserve"].to_numpy()], return_counts=True)
        planned.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    return Present(
        campaign=campaign,
        fixed_only=fixed_only,
        keys=np.sort(np.concatenate(keys)),
        planned=planned,
        extra=extra_types(campaign.plan_path),
    )


def check_addition(recorded: SampleConfig, addition: SampleConfig, split_by: str) -> None:
    """InputError with every reason why chips of the request `addition` cannot join a plan drawn as `recorded`."""
    problems = []
    if addition.strategy != recorded.strategy:
        problems.append(f"the plan was drawn by {recorded.strategy}, not by {addition.strategy}")
    if addition.chip_px != recorded.chip_px:
        problems.append(f"its chips have {recorded.chip_px} px a side, not {addition.chip_px}")
    if addition.spacing_m != recorded.spacing_m:
        problems.append(f"its chips keep {recorded.spacing_m:g} m apart, not {addition.spacing_m:g}")
    elif addition.spacing_m and addition.seed != recorded.seed:
        problems.append(f"its spacing holds for the seed {recorded.seed} only, not for {addition.seed}")
    if split_by == "bands" and addition.region != recorded.region:
        problems.append(f"its splits are bands across {recorded.region}, which say nothing of {addition.region}")
    if problems:
        raise InputError(
            "this cannot be added to the plan: " + "; ".join(problems),
            hint="Add what fits, or start another campaign with `m3etl -C DIR sample`.",
        )


def joined_types(present: Mapping[str, pa.DataType], new: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Types of the user's columns of old and new chips together. Raises InputError where they contradict."""
    try:
        schema = pa.unify_schemas(
            [pa.schema(list(present.items())), pa.schema(list(new.items()))], promote_options="permissive"
        )
    except pa.ArrowException as error:
        wrong = [name for name in new if name in present and present[name] != new[name]]
        kinds = "; ".join(
            f"{name} holds {present[name]} in the plan and {new[name]} in the new points" for name in wrong
        )
        raise InputError(
            f"columns of the points do not fit those of the plan: {kinds}", hint="Rename or convert these columns."
        ) from error
    return {item.name: item.type for item in schema}


def _staying(table: pa.Table, *, fixed_only: bool) -> pa.Table:
    return table.filter(pa.compute.greater_equal(table["generation"], 0)) if fixed_only else table
