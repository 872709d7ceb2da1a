"""The ledgers of a campaign, opened for those who look: its own or those of its parts, and that of arrays that are
being added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from m3etl.campaign import Campaign
from m3etl.io.joining import check_parts_agree
from m3etl.io.ledger import ChipState, Ledger, open_ledger


@contextlib.contextmanager
def open_ledgers(campaign: Campaign, *, to_read: bool = False) -> Iterator[list[tuple[Campaign, Ledger]]]:
    """The campaign with its ledger, or its parts with theirs. Raises DamagedError where parts do not go together."""
    with contextlib.ExitStack() as stack:
        opened = [
            (item, stack.enter_context(contextlib.closing(open_ledger(item.ledger_path, to_read=to_read))))
            for item in campaign.with_ledger
        ]
        begun = [ledger for _, ledger in opened if ledger.read_meta("part") is not None or len(opened) == 1]
        check_parts_agree(begun)
        yield opened


def read_additions(campaign: Campaign, ledger: Ledger) -> list[dict[str, Any]]:
    """How far the addition is that has begun and is not finished; empty without one."""
    added = replace(campaign, addition=int(ledger.read_meta("additions") or 0) + 1)
    if not ledger.read_meta("adding") or not added.ledger_path.exists():
        return []
    with contextlib.closing(open_ledger(added.ledger_path, to_read=True)) as own:
        return [describe_addition(own)]


def describe_addition(own: Ledger) -> dict[str, Any]:
    """How far an addition is: its arrays, chips that have them, chips that are waiting, chips that failed."""
    counts = own.counts()
    return {
        "arrays": " ".join(own.read_meta("arrays") or ()),
        "chips": counts.get(ChipState.LANDED, 0) + counts.get(ChipState.SEALED, 0),
        "waiting": counts.get(ChipState.WAITING, 0) + counts.get(ChipState.PLANNED, 0),
        "failed": counts.get(ChipState.FAILED, 0),
    }
