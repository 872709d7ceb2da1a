"""Parts of a campaign: several hosts or projects each export some lots of one plan, and nobody asks the others.

All parts cut the same plan into the same lots, so every lot has its rows before anything is planned. A part has a
ledger and raw segments of its own and seals its own shards. `tile`, `status` and `describe` take all parts together;
an export without a part joins their ledgers into one, for what concerns them all: further chips, retries in sealed
shards, new modalities.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from m3etl.campaign import Campaign
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.joining import join_ledgers
from m3etl.io.journal import AnswerJournal, journal_name
from m3etl.io.ledger import Ledger
from m3etl.io.lots import keep_part
from m3etl.spec.roworder import choose_lot_chips
from m3etl.stages.layout import Layout
from m3etl.stages.ledgers import open_ledgers
from m3etl.stages.scheduling import count_planned, form_open_lots, plan_identity, read_plan_into
from m3etl.stages.summary import Progress


def check_part(campaign: Campaign) -> None:
    """InputError where the campaign is exported as a whole, or in another number of parts."""
    if campaign.part is None:
        return
    name = "{}/{}".format(*campaign.part)
    for other in campaign.with_ledger:
        if other.part is None:
            raise InputError(
                f"this campaign is exported as a whole; part {name} of it was asked for",
                hint="Go on without --part. Parts begin with the first export of a plan.",
            )
        if other.part[1] != campaign.part[1]:
            raise InputError(
                f"this campaign is exported in {other.part[1]} parts; part {name} was asked for",
                hint=f"Use --part I/{other.part[1]}, or join the parts first by `m3etl export` without --part.",
            )


def begin_part(campaign: Campaign, ledger: Ledger, layout: Layout, region: str | None, progress: Progress) -> None:
    """Read the plan, cut it into lots and keep those of the part, once.

    Raises NothingSelectedError where the part has none, InputError where another region is asked for than at first.
    """
    part = campaign.part or (1, 1)
    if ledger.read_meta("part") is not None and not ledger.lot_count():
        _forget_lots(campaign, ledger, layout)
    if ledger.read_meta("part") is None:
        only, ledger.chosen = ledger.chosen, replace(ledger.chosen, only="")
        ledger.write_meta("selection", region)
        read_plan_into(ledger, campaign, progress)
        lots = form_open_lots(ledger, campaign, layout)
        kept = keep_part(ledger, part)
        ledger.chosen = only
        progress.say(f"part {part[0]}/{part[1]} has {kept} of {lots} lots of chips")
    if not ledger.lot_count():
        raise NothingSelectedError(
            f"part {part[0]}/{part[1]} of this campaign holds no chip: there are fewer lots of chips than parts",
            hint="Use fewer parts, or, before any part is exported, a smaller `lot_chips` (chips that are fixed "
            "together) in [store] of campaign.toml for all of them.",
        )
    if ledger.read_meta("selection") != region:
        raise InputError(
            f"this part was begun with the region {ledger.read_meta('selection')!r}; {region!r} was asked for now",
            hint="Finish all parts with the same region; then export others without --part.",
        )


def _forget_lots(campaign: Campaign, ledger: Ledger, layout: Layout) -> None:
    """A part that got no lot has asked for nothing: it begins anew, with lots of the size that is configured now."""
    wanted = campaign.config.store.lot_chips
    ledger.write_meta("lot_chips", choose_lot_chips(count_planned(campaign), layout.shard_chips, wanted))
    ledger.write_meta("plan", None)
    ledger.write_meta("part", None)


def join_parts(campaign: Campaign, progress: Progress) -> None:
    """Make one ledger of all parts, where there are any; what a killed run left of that is finished.

    Raises InputError where a part is missing.
    """
    parts = campaign.parts_here
    if not parts:
        return
    if not campaign.ledger_path.exists():
        _check_complete(parts)
        with open_ledgers(campaign) as opened:
            same = all(ledger.read_meta("plan") == plan_identity(campaign) for _, ledger in opened)
            join_ledgers(
                [(ledger, part.raw_path) for part, ledger in opened],
                campaign.ledger_path,
                campaign.raw_path,
                plan_identity(campaign) if same else None,
            )
        progress.say(f"{len(parts)} parts are joined into one ledger; go on without --part from now on")
    for part in parts:
        answers = AnswerJournal(part.raw_path / journal_name).read()
        if answers:  # what a part that was broken off has asked and not decided yet
            AnswerJournal(campaign.raw_path / journal_name).append(answers)
        for suffix in ("", "-wal", "-shm"):
            part.ledger_path.with_name(part.ledger_path.name + suffix).unlink(missing_ok=True)
        shutil.rmtree(part.raw_path, ignore_errors=True)


def _check_complete(parts: Sequence[Campaign]) -> None:
    numbers = [part.part for part in parts if part.part is not None]
    count = numbers[0][1]
    missing = [f"{number}/{count}" for number in range(1, count + 1) if (number, count) not in numbers]
    if missing or len(numbers) != count:
        raise InputError(
            f"part {', '.join(missing)} of this campaign is not here",
            hint="Export it with --part, or copy what it has written (its ledger, raw, chips.zarr, provenance) here.",
        )
