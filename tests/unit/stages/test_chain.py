"""The chain: what is missing runs first and is said; a plan is drawn once; a refused plan leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m3etl.campaign import Campaign, CampaignConfig, EarthEngineConfig, SampleConfig, create_campaign, open_campaign
from m3etl.errors import InputError, NothingSelectedError
from m3etl.stages import chain
from m3etl.stages.chain import Step, open_or_plan, run_missing, start_campaign, with_source
from m3etl.stages.summary import SilentProgress, Summary


class Said(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def file_step(name: str, order: list[str]) -> Step:
    """A stage that is done when its file exists."""

    def run(campaign: Campaign, progress) -> Summary:
        order.append(name)
        (campaign.root / name).write_text("")
        return Summary(stage=name, done=1)

    return Step(name=name, lacking=lambda campaign: "" if (campaign.root / name).exists() else f"no {name}", run=run)


@pytest.fixture
def plan_writer(monkeypatch):
    """Replaces the drawing of plans by a file; returns the list of configurations drawn."""
    drawn: list[CampaignConfig] = []

    def draw(campaign: Campaign, *, ecoregions: Path | None = None, progress) -> Summary:
        drawn.append(campaign.config)
        if campaign.config.sample.region == "nowhere":
            raise NothingSelectedError("no land there")
        campaign.plan_path.write_bytes(b"plan")
        return Summary(stage="sample", done=campaign.config.sample.chips)

    monkeypatch.setattr(chain, "draw_plan", draw)
    return drawn


def test_missing_stages_run_in_order_and_are_said(tmp_path):
    order: list[str] = []
    said = Said()
    steps = [file_step(name, order) for name in ("one", "two", "three", "four")]
    campaign = create_campaign(tmp_path, CampaignConfig())
    (tmp_path / "two").write_text("")
    _campaign, summaries = run_missing(campaign, "three", progress=said, steps=steps)
    assert order == ["one", "three"]
    assert [summary.stage for summary in summaries] == ["one", "three"]
    assert "no one: running `m3etl one` first" in said.lines
    assert "no three: running `m3etl three` first" in said.lines
    assert "three: 1 done" in said.lines


def test_a_complete_campaign_runs_nothing_and_says_nothing(tmp_path):
    said = Said()
    order: list[str] = []
    campaign = create_campaign(tmp_path, CampaignConfig())
    (tmp_path / "one").write_text("")
    assert run_missing(campaign, "one", progress=said, steps=[file_step("one", order)])[1] == []
    assert (order, said.lines) == ([], [])


def test_what_a_stage_saved_is_seen_by_the_next(tmp_path):
    campaign = create_campaign(tmp_path, CampaignConfig()).with_config(earthengine=EarthEngineConfig(url="embedded"))

    def save(campaign: Campaign, progress) -> Summary:
        from m3etl.campaign import save_config

        save_config(campaign.with_config(catalogue={"a": "b"}))
        return Summary(stage="export")

    step = Step(name="export", lacking=lambda campaign: "nothing", run=save)
    after, _summaries = run_missing(campaign, "export", progress=SilentProgress(), steps=[step])
    assert after.config.catalogue == {"a": "b"}
    assert after.config.earthengine.url == "embedded"


def test_the_order_of_the_stages_is_the_one_of_the_work():
    assert [step.name for step in chain.default_steps] == ["sample", "export", "tile", "normalize", "pretrain"]


def test_a_new_campaign_is_drawn_once(tmp_path, plan_writer):
    wanted = CampaignConfig(sample=SampleConfig(chips=7))
    campaign, summary = start_campaign(tmp_path / "c", wanted, ecoregions=None, progress=SilentProgress())
    assert summary.done == 7
    assert campaign.config.sample.chips == 7
    again, nothing = start_campaign(tmp_path / "c", wanted, ecoregions=None, progress=SilentProgress())
    assert (nothing.done, len(plan_writer)) == (0, 1)
    assert again.config == campaign.config


def test_another_request_is_refused_and_says_what_differs(tmp_path, plan_writer):
    start_campaign(tmp_path, CampaignConfig(sample=SampleConfig(chips=7)), ecoregions=None, progress=SilentProgress())
    with pytest.raises(InputError, match=r"chips 7 \(now 8\)") as caught:
        start_campaign(
            tmp_path, CampaignConfig(sample=SampleConfig(chips=8)), ecoregions=None, progress=SilentProgress()
        )
    assert "-C DIR" in caught.value.hint
    assert open_campaign(tmp_path).config.sample.chips == 7


def test_a_refused_plan_leaves_no_campaign(tmp_path, plan_writer):
    wanted = CampaignConfig(sample=SampleConfig(region="nowhere"))
    with pytest.raises(NothingSelectedError):
        start_campaign(tmp_path, wanted, ecoregions=None, progress=SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_a_refused_plan_keeps_the_configuration_that_waited(tmp_path, plan_writer):
    waiting = create_campaign(tmp_path, CampaignConfig(sample=SampleConfig(chips=5)))
    wanted = CampaignConfig(sample=SampleConfig(chips=5, region="nowhere"))
    with pytest.raises(NothingSelectedError):
        start_campaign(tmp_path, wanted, ecoregions=None, progress=SilentProgress())
    assert open_campaign(tmp_path).config == waiting.config


def test_without_a_campaign_the_plan_is_drawn_and_said(tmp_path, plan_writer):
    said = Said()
    source = EarthEngineConfig(url="embedded")
    wanted = replace(CampaignConfig(), sample=SampleConfig(region="europe"))
    campaign, summaries = open_or_plan(tmp_path, wanted, source=source, progress=said)
    assert any("running `m3etl sample` first" in line for line in said.lines)
    assert len(summaries) == 1
    assert campaign.config.sample.region == "europe"
    assert plan_writer[0].earthengine.url == "embedded"
    assert open_or_plan(tmp_path, CampaignConfig(), source=source, progress=said)[1] == []


def test_what_is_given_now_goes_before_what_was_recorded(tmp_path):
    recorded = CampaignConfig(earthengine=EarthEngineConfig(url="http://a", project="p"))
    campaign = with_source(create_campaign(tmp_path, recorded), EarthEngineConfig(url="embedded"))
    assert campaign.config.earthengine == EarthEngineConfig(url="embedded", project="p")


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"strategy": "points", "points": "absent.csv"}, "absent.csv"),
        ({"strategy": "points", "points": "bad.csv"}, "-180..180"),
        ({"exclude": ("absent.geojson",)}, "absent.geojson"),
        ({"region": "atlantis"}, "atlantis"),
    ],
)
def test_the_request_is_checked_before_ecoregions_are_read_and_nothing_stays(tmp_path, monkeypatch, sample, said):
    def refuse(campaign, **options):
        raise AssertionError("Earth Engine was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chain, "open_source", refuse)
    (tmp_path / "bad.csv").write_text("lon,lat\n10,50\n999,50\n")
    wanted = CampaignConfig(sample=SampleConfig(**sample))
    with pytest.raises(InputError, match=said):
        start_campaign(tmp_path / "c", wanted, ecoregions=None, progress=SilentProgress())
    assert not (tmp_path / "c").exists()
