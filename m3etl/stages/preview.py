"""Pictures of a campaign: a contact sheet per array, an overview of all arrays, charts of vectors, an HTML map."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from shapely.geometry import mapping

from m3etl.campaign import Campaign, ensure_directory
from m3etl.compute.colors import natural_color
from m3etl.errors import MissingExtraError, NothingSelectedError
from m3etl.io.maps import write_map
from m3etl.io.pictures import chip_pictures, encode_png, write_contact_sheet, write_overview, write_vector_chart
from m3etl.io.plan import read_footprints, read_plan
from m3etl.io.store import ChipStore, open_store
from m3etl.spec.biomes import biome_names
from m3etl.spec.modality import Shape
from m3etl.stages.summary import Progress, Summary

sheet_chips = 32
overview_chips = 12
map_chips = 5000  # a page with more outlines no longer opens fluently
plan_columns = ("chip_id", "row", "reserve", "lon", "lat", "biome", "ecoregion", "split", "year")


def run_preview(campaign: Campaign, *, progress: Progress) -> Summary:
    """Write previews/: `<array>.png`, `overview.png` and `map.html`; the files are listed in the facts.

    The chips shown are spread over the biomes. Raises NothingSelectedError before anything is exported.
    """
    started = time.monotonic()
    if not campaign.store_path.exists():
        raise NothingSelectedError("there are no chips to show yet", hint="Run `m3etl export` first.")
    store = open_store(campaign.store_path)
    plan = read_plan(campaign.plan_path, columns=plan_columns).set_index("chip_id", drop=False)
    rows = _spread_rows(store, plan)
    ensure_directory(campaign.previews_path)
    progress.start("preview", len(store.specs) + 2)
    written = []
    captions = [_caption(plan.loc[chip_id]) for chip_id in store.chip_ids[rows]]
    for name, spec in store.specs.items():
        path = campaign.previews_path / f"{name}.png"
        stored = store.read(name, rows)
        if spec.shape is Shape.RASTER:
            write_contact_sheet(path, spec, stored, captions)
        else:
            write_vector_chart(path, spec, store.read(name, np.flatnonzero(store.chip_ids != "")))
        written.append(path)
        progress.advance(1, file=path.name)
    few = rows[np.linspace(0, len(rows) - 1, min(overview_chips, len(rows))).astype(int)]
    overview = campaign.previews_path / "overview.png"
    rasters = {name: store.read(name, few) for name, spec in store.specs.items() if spec.shape is Shape.RASTER}
    overview_captions = [_caption(plan.loc[chip_id]) for chip_id in store.chip_ids[few]]
    write_overview(overview, list(store.specs.values()), rasters, overview_captions)
    written.append(overview)
    progress.advance(1, file=overview.name)
    facts: dict[str, Any] = {}
    try:
        written.append(_write_campaign_map(campaign, store, plan))
    except MissingExtraError as error:
        facts["map"] = f"left out: {error.message} ({error.hint})"
    progress.finish()
    facts["pictures"] = [str(path) for path in written]
    return Summary(stage="preview", done=len(written), seconds=time.monotonic() - started, facts=facts)


def _spread_rows(store: ChipStore, plan: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Up to `sheet_chips` rows, taken in turn from the biomes so that each is shown."""
    rows = np.flatnonzero(store.chip_ids != "")
    if not len(rows):
        raise NothingSelectedError("the store holds no chips yet", hint="Run `m3etl export` first.")
    biome = plan.loc[store.chip_ids[rows], "biome"].to_numpy()
    turn = np.zeros(len(rows), np.int64)
    for code in np.unique(biome):
        members = np.flatnonzero(biome == code)
        turn[members] = np.arange(len(members))
    chosen = np.lexsort((biome, turn))[:sheet_chips]
    return rows[chosen[np.argsort(biome[chosen], kind="stable")]]


def _caption(chip: Any) -> str:
    name = biome_names[int(chip["biome"])] if chip["biome"] >= 0 else "no biome"
    short = name if len(name) <= 22 else name[:21] + "…"
    return f"{short}\n{chip['lat']:.1f}, {chip['lon']:.1f} ({chip['split']})"


def _write_campaign_map(campaign: Campaign, store: ChipStore, plan: Any) -> Any:
    from m3etl.io.regions import read_region

    path = campaign.previews_path / "map.html"
    used = np.flatnonzero(~plan["reserve"].to_numpy(dtype=bool) | (plan["row"].to_numpy() >= 0))
    places = used[np.linspace(0, len(used) - 1, min(map_chips, len(used))).astype(int)]
    shown = plan.iloc[places]
    outlines = read_footprints(campaign.plan_path, places.tolist())
    rows = {chip_id: row for row, chip_id in enumerate(store.chip_ids) if chip_id in shown.index}
    optical = next((spec for spec in store.specs.values() if set(natural_color) <= set(spec.bands)), None)
    thumbnails = {}
    if optical is not None:
        chosen = list(rows)[: sheet_chips * 8]
        stored = store.read(optical.name, np.array([rows[chip_id] for chip_id in chosen], dtype=np.int64))
        pictures = chip_pictures(optical, stored)
        thumbnails = {chip_id: encode_png(picture) for chip_id, picture in zip(chosen, pictures, strict=True)}
    chips = [
        {
            "chip_id": chip["chip_id"],
            "lon": float(chip["lon"]),
            "lat": float(chip["lat"]),
            "biome": biome_names[int(chip["biome"])] if chip["biome"] >= 0 else "none",
            "biome_id": int(chip["biome"]),
            "ecoregion": int(chip["ecoregion"]),
            "split": chip["split"],
            "year": int(chip["year"]),
            "row": rows.get(chip["chip_id"], -1),
            "outline": mapping(outline),
        }
        for chip, outline in zip(shown.to_dict("records"), outlines, strict=True)
    ]
    name = campaign.config.sample.region
    title = f"{campaign.root.resolve().name}: {len(used):,} chips planned, {len(rows):,} of those shown are stored"
    regions = {name: mapping(read_region(name).geometry)} if name and name != "globe" else {}
    write_map(path, chips, regions=regions, thumbnails=thumbnails, title=title)
    return path
