"""The whole chain on the embedded Earth Engine, in minutes on a laptop: a rehearsal with pictures, and a smoke test."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from m3etl.campaign import (
    Campaign,
    CampaignConfig,
    EarthEngineConfig,
    SampleConfig,
    open_campaign,
    save_config,
    write_atomically,
)
from m3etl.stages.chain import draw_plan, export_pixels, reread, start_campaign
from m3etl.stages.summary import Progress, Summary

chips_per_biome = 8
demo_config = CampaignConfig(
    sample=SampleConfig(chips=14 * chips_per_biome), earthengine=EarthEngineConfig(url="embedded")
)

short_run = ("preset=quick", "trainer.max_steps=150", "trainer.validate_every=150")
without_labels = ("data.leave_out=[biome,land_cover]", "run.pictures=0", "trainer.max_steps=80")

least_fall = 0.95  # of the first loss; what stays above it is said to be hardly learned

optical_arrays = ("sentinel2_l2a", "sentinel2_l1c")
shown_arrays = ("sentinel1_asc", "sentinel1_desc", "canopy_height")

# Cases that a draw over the biomes would hardly meet: case, lon, lat, day of the anchor.
special_places: tuple[tuple[str, float, float, str], ...] = (
    ("coast", -4.4, 43.45, "2019-06-15"),
    ("coast", 18.85, -33.95, "2018-12-20"),
    ("coast", -43.63, -22.98, "2019-04-10"),
    ("night-side winter", 25.7, 70.6, "2019-12-21"),
    ("night-side winter", 68.5, 69.5, "2018-12-25"),
    ("night-side winter", -155.0, 70.2, "2020-01-02"),
    ("missing orbit", 103.36, 25.53, "2019-07-01"),
    ("missing orbit", 108.68, 57.68, "2019-07-01"),
    ("missing orbit", 61.42, 33.34, "2019-07-01"),
)


def run_demo(
    directory: Path, *, progress: Progress, config: CampaignConfig = demo_config, overrides: Sequence[str] = ()
) -> Summary:
    """Run every stage in `directory`, from `sample` to `evaluate`; what is done already is not done again.

    config: what is drawn besides the special places; overrides: of the training. Returns one summary with the figures
    of all stages: chips, requests per chip, bytes, valid fractions, losses before and after, probe scores beside their
    floors, pictures.
    """
    from m3etl.stages.evaluate import run_evaluate
    from m3etl.stages.normalize import run_normalize
    from m3etl.stages.pretrain import run_pretrain
    from m3etl.stages.preview import run_preview
    from m3etl.stages.tile import run_tile
    from m3etl.stages.validate import run_validate

    started = time.monotonic()
    campaign = _export_all(_planned(directory, config, progress), progress)
    run_tile(campaign, progress=progress)
    run_normalize(campaign, progress=progress)
    preview = run_preview(campaign, progress=progress)
    audit = run_validate(campaign, progress=progress)
    trained = run_pretrain(campaign, overrides=(*short_run, *overrides), progress=progress)
    progress.say("a second run without the labels that are probed, so that the probes are fair")
    run_pretrain(campaign, overrides=(*short_run, *without_labels, *overrides), progress=progress)
    probed = run_evaluate(campaign, progress=progress)
    return Summary(
        stage="demo",
        done=int((audit.facts or {}).get("chips", 0)),
        failed=audit.failed,
        seconds=time.monotonic() - started,
        facts=_facts(campaign, preview, audit, trained, probed),
    )


def _planned(directory: Path, config: CampaignConfig, progress: Progress) -> Campaign:
    """The campaign of the demo with its balanced draw, also where it was stopped while it drew special places."""
    if (directory / "chips.parquet").exists():
        found = open_campaign(directory)
        if replace(found.config.sample, strategy=config.sample.strategy, points="") == config.sample:
            return found.with_config(sample=config.sample)
    return start_campaign(directory, config, ecoregions=None, progress=progress)[0]


def _export_all(campaign: Campaign, progress: Progress) -> Campaign:
    """The balanced draw, and then the special places as a second generation of the same data set."""
    from m3etl.io.plan import read_plan

    points = campaign.root / "special-places.geojson"
    if "case" not in read_plan(campaign.plan_path).columns:
        export_pixels(campaign, progress)
        write_atomically(points, _geojson(special_places))
        draw_plan(_of_points(reread(campaign), points), progress=progress)
    export_pixels(_of_points(reread(campaign), points), progress)
    finished = reread(campaign).with_config(sample=campaign.config.sample)
    save_config(finished)
    return finished


def _of_points(campaign: Campaign, points: Path) -> Campaign:
    """The campaign as it draws points instead of biomes; what campaign.toml says stays."""
    sample = replace(campaign.config.sample, strategy="points", points=str(points))
    return campaign.with_config(sample=sample)


def _geojson(places: Sequence[tuple[str, float, float, str]]) -> bytes:
    features = [
        {
            "type": "Feature",
            "properties": {"case": case, "date": date},
            "geometry": {"type": "Point", "coordinates": [lon, lat]},
        }
        for case, lon, lat, date in places
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1).encode()


def _facts(campaign: Campaign, preview: Summary, audit: Summary, trained: Summary, probed: Summary) -> dict[str, Any]:
    from m3etl.spec.catalog import modality_names
    from m3etl.stages.status import read_status

    status = read_status(campaign)
    pictures = [*preview.facts.get("pictures", ()), *trained.facts.get("pictures", ())]
    return {
        "chips": audit.facts.get("chips"),
        "modalities": len(modality_names),
        "requests": status.facts["requests"],
        "requests per chip": status.facts["requests per chip"],
        "bytes received": status.facts["bytes received"],
        "findings of the audit": audit.failed,
        "training steps": trained.facts.get("steps"),
        "run": trained.facts.get("run"),
        "losses are": "over hidden patches of training chips; for arrays of numbers 1 is about what their mean gets",
        **_hardly_learned(trained.facts),
        "special places": _special_rows(campaign),
        "valid fractions": _valid_rows(campaign),
        "losses": _loss_rows(trained.facts),
        "probes": probed.facts.get("probes", []),
        "pictures": [{"picture": path} for path in pictures],
    }


def _valid_rows(campaign: Campaign) -> list[dict[str, Any]]:
    """Per array: chips with an observation, and the mean valid fraction of those."""
    from m3etl.io.provenance import read_provenance

    record = read_provenance(campaign.provenance_path)
    rows = []
    for name, mine in record.groupby("array", sort=False):
        observed = mine[mine["status"] == "ok"]
        share = float(observed["valid_fraction"].mean()) if len(observed) else None
        rows.append({"array": name, "chips": len(observed), "without": len(mine) - len(observed), "valid": share})
    return rows


def _special_rows(campaign: Campaign) -> list[dict[str, Any]]:
    """Per special place: the day asked for, the day with light that was found, and what was observed there."""
    from m3etl.io.plan import read_plan
    from m3etl.io.provenance import read_provenance

    plan = read_plan(campaign.plan_path)
    special = plan[plan["case"].notna()].set_index("chip_id")
    record = read_provenance(campaign.provenance_path)
    record = record[record["chip_id"].isin(special.index)].set_index(["chip_id", "array"])
    rows = []
    for chip_id, chip in special.iterrows():
        valid = {name: record["valid_fraction"].get((chip_id, name), 0.0) for name in shown_arrays}
        images = [record["time"].get((chip_id, name)) for name in optical_arrays]
        found = [f"{image:%Y-%m-%d}" for image in images if image is not None and image == image]
        rows.append(
            {
                "case": chip["case"],
                "lon": round(chip["lon"], 2),
                "lat": round(chip["lat"], 2),
                "asked for": str(chip["date"])[:10],
                "sentinel2": found[0] if found else "none",
                **valid,
            }
        )
    return rows


def _loss_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    before, after = facts.get("loss_before", {}), facts.get("loss_after", {})
    return [
        {"array": name, "loss before": before[name], "after": after.get(name), "change": _change(before, after, name)}
        for name in before
    ]


def _change(before: Mapping[str, float], after: Mapping[str, float], name: str) -> str | None:
    """`-72 %`; None where nothing was measured."""
    if name not in after or not before[name]:
        return None
    return f"{100 * (after[name] / before[name] - 1):+.0f} %"


def _hardly_learned(facts: Mapping[str, Any]) -> dict[str, str]:
    """Says which losses have not fallen and why that is no surprise; nothing where all have."""
    before, after = facts.get("loss_before", {}), facts.get("loss_after", {})
    names = [name for name in before if after.get(name, 0.0) > least_fall * before[name]]
    if not names:
        return {}
    reason = (
        f"{facts.get('steps', 0)} steps on about a hundred chips are too few where a handful of chips, such as the "
        "steepest, hold most of an array's variation"
    )
    return {"hardly learned": f"{', '.join(names)}: {reason}"}
