"""The labels that a user's points brought along: columns of the plan that a probe can be fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from m3etl.campaign import Campaign
from m3etl.errors import InputError
from m3etl.io.plan import extra_types, iterate_plan

not_labels = frozenset({"date", "identifier", "reserve"})
most_classes = 1000
most_whole_numbers = 50  # whole numbers with more different values than this are regressed
least_labelled = 20  # chips; a column with fewer is probed only where it is named


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumn:
    """A column as labels of the rows of the store. classes: the names of 0, 1, ... in `values` (n,) int64 with -1 for
    no label; without classes `values` are float64 to regress, NaN for no label.
    """

    name: str
    classes: tuple[str, ...]
    values: NDArray[Any]
    label_family: str = ""

    @property
    def is_classes(self) -> bool:
        return bool(self.classes)

    @property
    def labelled(self) -> int:
        """How many rows have a label."""
        return int(np.count_nonzero(self.values >= 0 if self.is_classes else np.isfinite(self.values)))


def label_names(campaign: Campaign) -> tuple[str, ...]:
    """The columns of the plan that may be labels: all that the user's points brought but dates and identifiers."""
    if not campaign.plan_path.exists():
        return ()
    return tuple(name for name in extra_types(campaign.plan_path) if name not in not_labels)


def read_labels(campaign: Campaign, names: Sequence[str], rows: int) -> dict[str, LabelColumn]:
    """These columns for a store of so many rows. Text, truth values and whole numbers (up to 50 of them) are classes,
    other numbers are regressed. InputError for a column that is neither.
    """
    if not names:
        return {}
    found: dict[str, pd.Series[Any]] = {name: pd.Series([None] * rows, dtype=object) for name in names}
    for part in iterate_plan(campaign.plan_path, columns=["row", *names]):
        stored = part[part["row"].between(0, rows - 1)]
        for name in names:
            found[name].iloc[stored["row"].to_numpy()] = stored[name].astype(object).to_numpy()
    return {name: label_column(name, values) for name, values in found.items()}


def label_column(name: str, values: pd.Series[Any]) -> LabelColumn:
    """A column of any type as labels; empty text and NaN are no label. InputError says why a column is none."""
    known = values.notna() & (values.astype(str).str.strip() != "")
    numbers = pd.to_numeric(values.where(known), errors="coerce")
    if known.any() and not (known & numbers.isna()).any() and not _are_flags(values[known]):
        numbers = numbers.astype(np.float64).where(np.isfinite(numbers.astype(np.float64)), np.nan)
        different = numbers.dropna().unique()
        if np.any(different % 1 != 0) or len(different) > most_whole_numbers:
            return LabelColumn(name=name, classes=(), values=numbers.to_numpy(np.float64))
        values = numbers.map(lambda number: f"{number:.0f}", na_action="ignore").astype(object)
        known = numbers.notna()
    texts = values.where(known).map(lambda item: str(item).strip(), na_action="ignore")
    codes, classes = pd.factorize(texts, sort=True)
    if len(classes) > most_classes:
        raise InputError(
            f"the column {name} has {len(classes):,} different texts: more than {most_classes:,} classes",
            hint="Name another column with --label, or group its values.",
        )
    return LabelColumn(name=name, classes=tuple(map(str, classes)) or ("none",), values=codes.astype(np.int64))


def _are_flags(values: pd.Series[Any]) -> bool:
    return all(isinstance(item, bool | np.bool_) for item in values)
