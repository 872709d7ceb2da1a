"""Parts of one campaign in one directory or in copies: the union is the same to the last bit, and growing goes on from
it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from m3etl.campaign import locked, save_config
from m3etl.errors import AuthenticationError, DamagedError, InputError, NothingSelectedError
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.segments import segment_numbers
from m3etl.io.store import dataset_id, open_store
from m3etl.stages.chain import default_steps
from m3etl.stages.describe import run_describe
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from m3etl.stages.tile import run_tile
from tests.unit.stages.test_export import FakeEarth, content, export, install, make_campaign, make_plan, open_campaign

chips, reserves = 40, 20


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


def campaign_in(path, **options):
    """40 chips in lots of 16: three lots of two shards, with losses that reserves make up for."""
    campaign = make_campaign(path, make_plan(chips, reserve=reserves), strategy="biome", **options)
    campaign = campaign.with_config(store=replace(campaign.config.store, lot_chips=16))
    save_config(campaign)
    return campaign


def earth(**options):
    return FakeEarth(lost=0.2, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = campaign_in(tmp_path_factory.mktemp("whole") / "c")
        export(campaign, earth())
    assert read_status(campaign).facts["generations"] == 3
    return campaign


def tile(campaign):
    return run_tile(open_campaign(campaign.root), progress=SilentProgress())


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_one_directory_make_the_same_campaign(whole, tmp_path, order):
    campaign = campaign_in(tmp_path / "c")
    for number in order:
        assert export(campaign, earth(), part=(number, 3)).failed == 0
    status = read_status(campaign)
    assert status.facts["parts"] == "1, 2, 3 of 3"
    assert (status.done, status.skipped) == (read_status(whole).done, 0)
    assert status.facts["reserve"] == read_status(whole).facts["reserve"]
    tile(campaign)
    assert content(campaign.root) == content(whole.root)
    assert dataset_id(campaign.store_path) == dataset_id(whole.store_path)
    assert run_describe(campaign).facts == {**run_describe(whole).facts, "campaign": "c"}
    assert not list(campaign.raw_path.rglob("*.seg"))


def test_copies_of_the_directory_come_together_afterwards(whole, tmp_path):
    first = campaign_in(tmp_path / "a")
    shutil.copytree(first.root, tmp_path / "b", copy_function=shutil.copy)
    second = open_campaign(tmp_path / "b")
    export(first, earth(), part=(1, 2))
    export(second, earth(), part=(2, 2))
    assert len(read_status(first).facts["parts"]) == len("1 of 2")
    shutil.copytree(second.root, first.root, dirs_exist_ok=True)
    tile(first)
    assert content(first.root) == content(whole.root)
    shutil.copytree(first.root, second.root, dirs_exist_ok=True)
    export(second, FakeEarth(trouble=lambda *_: pytest.fail("nothing is left to ask")))
    assert content(second.root) == content(whole.root), "joined by an export too"
    assert [path.name for path in second.root.glob("ledger*")] == ["ledger.sqlite"]
    assert read_status(second).done == read_status(whole).done


def test_what_is_planned_is_stored_or_unusable(tmp_path):
    """Reserves without a usable scene are none of those planned."""
    campaign = campaign_in(tmp_path / "c")
    export(campaign, FakeEarth(lost=0.4))
    facts = run_describe(campaign).facts
    assert read_status(campaign).rejected > facts["of them unusable"] > 0
    assert facts["chips planned"] == facts["chips stored"] + facts["of them unusable"]


def test_a_part_that_was_broken_off_is_finished_after_joining(whole, tmp_path):
    campaign = campaign_in(tmp_path / "c", max_in_flight=1)

    asked: Counter[tuple[object, ...]] = Counter()

    def expires(what, subject, number):
        if what == "pixels" and broken.calls["pixels"] > 4:
            return Failure(kind=Kind.AUTH, message="expired", status=401)
        return note(what, subject, number)

    def note(what, subject, number):
        if what == "plan":
            asked.update(
                (item.chip.chip_id, getattr(item, "level", ""), getattr(item, "start_ms", 0)) for item in subject.items
            )

    export(campaign, earth(), part=(1, 2))
    broken = earth(trouble=expires)
    with pytest.raises(AuthenticationError):
        export(campaign, broken, part=(2, 2))
    landed = read_status(campaign).facts["landed"]
    assert landed > 0
    assert len(segment_numbers(campaign.raw_path / "2-of-2")) > 0
    last = earth(trouble=note)
    export(campaign, last)
    assert set(asked.values()) == {1}, "every decision of the parts is kept"
    assert last.calls["pixels"] == read_status(whole).done - read_lot_chips(whole, 0) - landed
    assert content(campaign.root) == content(whole.root)
    assert not list(campaign.raw_path.rglob("*.seg"))


def read_lot_chips(campaign, generation):
    plan = read_plan(campaign.plan_path)
    return int((plan["generation"] == generation).sum())


def test_after_joining_failures_and_further_chips_go_on(tmp_path):
    campaign = campaign_in(tmp_path / "c", max_attempts=1)

    victims = set(make_plan(chips)["chip_id"][::9])

    def fails(what, subject, number):
        failing = what == "pixels" and subject.job.chip.chip_id in victims
        return Failure(kind=Kind.WRONG, message="odd") if failing else None

    for number in (1, 2):
        export(campaign, earth(trouble=fails), part=(number, 2))
    before = read_status(campaign)
    assert before.failed > 1
    said = []
    progress = SilentProgress()
    progress.say = said.append
    for number in (1, 2):
        export(campaign, earth(), part=(number, 2), retry_failed=True, progress=progress)
    assert "without --part" in " ".join(said)
    assert read_status(campaign).failed == before.failed, "their shards are sealed; parts would give rows twice"
    grown = pd.concat([pd.DataFrame(read_plan(campaign.plan_path)), make_plan(70)[60:]], ignore_index=True)
    write_plan(campaign.plan_path, grown)
    summary = export(campaign, earth(), retry_failed=True)
    assert summary.failed == 0
    further = summary.done - before.done - before.failed
    assert kept(grown[60:]) <= further <= 10, "reserves that no part needed stand in for further chips"
    store = open_store(campaign.store_path)
    names = store.chip_ids[store.chip_ids != ""]
    assert len(set(names)) == len(names) == summary.done


def kept(plan):
    from fakes.earth import fraction

    return sum(fraction(name, "lost") >= 0.2 for name in plan["chip_id"])


def test_what_does_not_go_with_parts_is_refused(whole, tmp_path):
    with pytest.raises(InputError, match="exported as a whole"):
        export(whole, earth(), part=(1, 2))
    campaign = campaign_in(tmp_path / "c")
    export(campaign, earth(), part=(1, 2))
    with pytest.raises(InputError, match="in 2 parts"):
        export(campaign, earth(), part=(1, 3))
    with pytest.raises(InputError, match="part 2/2 of this campaign is not here"):
        export(campaign, earth())
    with pytest.raises(InputError, match="begun with the region None"):
        export(campaign, earth(), part=(1, 2), region="globe")
    small = make_campaign(tmp_path / "small", make_plan(8))
    export(small, FakeEarth(), part=(2, 2))
    with pytest.raises(NothingSelectedError, match="holds no chip"):
        export(small, FakeEarth(), part=(1, 2))


def test_a_part_without_lots_begins_anew_with_smaller_ones(tmp_path, whole):
    """What the refusal advises helps: the ledger that it leaves behind keeps nothing of the larger lots."""
    campaign = campaign_in(tmp_path / "c")
    save_config(campaign.with_config(store=replace(campaign.config.store, lot_chips=0)))
    for _ in range(2):
        with pytest.raises(NothingSelectedError, match="holds no chip"):
            export(campaign, earth(), part=(1, 2))
    save_config(campaign)
    for number in (1, 2):
        export(campaign, earth(), part=(number, 2))
    export(campaign, earth())
    assert content(campaign.root) == content(whole.root)


def test_parts_of_different_plans_are_told_apart(tmp_path):
    first, second = campaign_in(tmp_path / "a"), campaign_in(tmp_path / "b")
    write_plan(second.plan_path, make_plan(chips + 2, reserve=reserves))
    export(first, earth(), part=(1, 2))
    export(second, earth(), part=(2, 2))
    shutil.copy(second.root / "ledger-2-of-2.sqlite", first.root)
    for use in (read_status, tile):
        with pytest.raises(DamagedError, match="lots differ"):
            use(first)


def test_one_process_a_part_and_nobody_beside_a_whole_run(tmp_path):
    campaign = campaign_in(tmp_path / "c")
    holding = (
        "import sys; from m3etl.campaign import open_campaign, locked; from dataclasses import replace;"
        "c = replace(open_campaign(__import__('pathlib').Path(sys.argv[1])), part=eval(sys.argv[2]));"
        "l = locked(c); l.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holding, str(campaign.root), "(1, 2)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another m3etl process"):
            export(campaign, earth(), part=(1, 2))
        with pytest.raises(InputError, match="another m3etl process"):
            export(campaign, earth())
        with locked(replace(campaign, part=(2, 2))):
            pass
        other.communicate("")
    export(campaign, earth(), part=(1, 2))


def test_the_chain_sees_parts(tmp_path):
    campaign = campaign_in(tmp_path / "c")
    lacking = {step.name: step.lacking for step in default_steps}
    assert lacking["export"](campaign) == "nothing is exported yet"
    export(campaign, earth(), part=(1, 2))
    assert lacking["export"](campaign) == lacking["tile"](campaign) == ""
    assert np.all(open_store(campaign.store_path).chip_ids[:5] != "")
