"""What planning is told and whom it asks: its rules, the chips, Earth Engine, and where decisions go. All of it can be
had from another process, see `m3etl.stages.planningprocess`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from m3etl.campaign import ExportConfig
from m3etl.io.earthengine import Session, value_of
from m3etl.io.ledger import PlannedChip
from m3etl.io.metering import Metering, Unmetered
from m3etl.io.planning import Form, encode_form
from m3etl.spec.budget import planning_lane
from m3etl.spec.modality import ArraySpec
from m3etl.stages.decisions import PlanChip


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningRules:
    """How the scenes of chips are chosen. must_have_scene: chips without a good anchor are unusable; origin: of what is
    decided, see `PlannedChip`.

    journal: file for answers that nothing in the ledger follows from yet; block_chips: chips a side of the blocks that
    are planned with one anchor; base_wait_s: first back-off after a failure.
    """

    specs: tuple[ArraySpec, ...]
    config: ExportConfig
    seed: int
    years: tuple[int, int]
    must_have_scene: bool
    origin: str = "earthengine"
    journal: Path | None = None
    block_chips: int = 1
    base_wait_s: float = 1.0


class Service(Protocol):
    """Earth Engine, as far as planning asks it. Used from several threads."""

    def encode(self, form: Form) -> str:
        """The JSON of a request without its places."""
        ...

    def ask(self, expression: str, items: int) -> Any:
        """The value of an encoded expression that is about so many things. Raises RequestFailed."""
        ...

    def is_serving(self) -> bool:
        """Whether the service answers the smallest question there is."""
        ...


class Decisions(Protocol):
    """Takes what is decided, for good when a call returns; the ledger does."""

    def record_planned(self, chips: Sequence[PlannedChip]) -> None: ...

    def record_unplannable(self, chip_id: str, kind: str, reason: str) -> None: ...


class Groups(Protocol):
    """Chips that are to be planned, group after group; a group is asked about while the one before it is still decided.
    Used from one thread.
    """

    def waiting(self) -> int | None:
        """Decided chips that wait to be fetched; None where nothing is fetched meanwhile."""
        ...

    def next_group(self) -> Sequence[PlanChip] | None:
        """The chips of a further group; None when there is none."""
        ...

    def settle(self) -> Sequence[PlanChip]:
        """All chips of the oldest group that is not settled are decided: those to be asked about in their place, none
        when it is settled thereby.
        """
        ...


class PlannedGroups(Groups, Protocol):
    """Groups that are told what was decided."""

    def recorded(self, chips: Sequence[PlannedChip]) -> None:
        """These decisions are recorded."""
        ...


class MeteredSession:
    """A session whose questions are counted and profiled."""

    def __init__(self, session: Session, rules: PlanningRules, meter: Metering | None = None) -> None:
        self._session = session
        self._rules = rules
        self._meter = meter or Unmetered()

    def encode(self, form: Form) -> str:
        """See `Service`."""
        config = self._rules.config
        return encode_form(
            self._session.api,
            form,
            self._rules.specs,
            candidates=config.candidates,
            gap_days=config.s1_max_gap_days,
        )

    def ask(self, expression: str, items: int) -> Any:
        """See `Service`."""
        return value_of(self.ask_encoded(expression, items))

    def ask_encoded(self, expression: str, items: int) -> bytes:
        """The body of the same answer, see `value_of`."""
        with self._meter.request(planning_lane, items):
            return self._session.compute_encoded(expression)

    def is_serving(self) -> bool:
        """See `Service`."""
        return self._session.serves_values()
