"""The plan as one HTML file that works without a network: folium writes it, Leaflet is put into the page itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from m3etl.campaign import write_atomically
from m3etl.errors import MissingExtraError
from m3etl.spec.biomes import biome_names

biome_colors = (
    "#9ecae1", "#006d2c", "#fec44f", "#d95f0e", "#c2e699", "#31a354", "#74c476",
    "#41ab5d", "#bcbddc", "#807dba", "#4292c6", "#fed976", "#a1d99b", "#238443",
)  # fmt: skip
no_biome_color = "#777777"


def write_map(
    path: Path,
    chips: Sequence[Mapping[str, Any]],
    *,
    regions: Mapping[str, Any],
    thumbnails: Mapping[str, bytes],
    title: str,
) -> None:
    """An interactive map of chips: a dot and an outline each, its facts and picture on click.

    chips: rows of the plan with lon, lat, chip_id, biome, split, year, row and a GeoJSON `outline`; regions: name ->
    GeoJSON geometry; thumbnails: chip_id -> PNG. Raises MissingExtraError without folium.
    """
    try:
        import folium
    except ImportError as error:
        raise MissingExtraError("a map needs folium", hint="pip install 'm3etl[maps]'") from error
    world = folium.Map(location=(20, 0), zoom_start=2, tiles=None, world_copy_jump=True)
    world.default_js = []
    world.default_css = []
    folium.TileLayer("OpenStreetMap", name="OpenStreetMap (needs a network)", show=True).add_to(world)
    folium.GeoJson(
        {"type": "Feature", "properties": {}, "geometry": _graticule()},
        name="graticule, 30 degrees",
        style_function=lambda _: {"color": "#9aa7b0", "weight": 0.6},
    ).add_to(world)
    for name, geometry in regions.items():
        folium.GeoJson(
            {"type": "Feature", "properties": {}, "geometry": geometry},
            name=f"region {name}",
            style_function=lambda _: {"color": "#555555", "weight": 1, "fillOpacity": 0.04},
        ).add_to(world)
    if chips:
        _add_chips(folium, world, chips, thumbnails)
    folium.LayerControl(collapsed=False, position="bottomleft").add_to(world)
    page: Any = world.get_root()
    page.html.add_child(folium.Element(f'<div class="m3etl-title">{escape(title)}</div>{_legend()}'))
    page.header.add_child(folium.Element(_inlined()))
    write_atomically(path, page.render().encode())


def _add_chips(folium: Any, world: Any, chips: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, bytes]) -> None:
    names = ["chip_id", "biome", "ecoregion", "split", "year", "row", "picture"]
    dots, outlines = [], []
    for chip in chips:
        picture = thumbnails.get(chip["chip_id"])
        encoded = base64.b64encode(picture).decode() if picture else ""
        tag = f'<img width="192" style="image-rendering:pixelated" src="data:image/png;base64,{encoded}">'
        properties: dict[str, Any] = {name: str(chip[name]) for name in names[:-1]}
        properties["picture"] = tag if picture else "not exported"
        properties["color"] = biome_colors[chip["biome_id"]] if chip["biome_id"] >= 0 else no_biome_color
        properties["opacity"] = 0.95 if chip["row"] >= 0 else 0.15
        point = {"type": "Point", "coordinates": [chip["lon"], chip["lat"]]}
        dots.append({"type": "Feature", "properties": properties, "geometry": point})
        outlines.append({"type": "Feature", "properties": properties, "geometry": chip["outline"]})
    folium.GeoJson(
        {"type": "FeatureCollection", "features": outlines},
        name="chip outlines",
        style_function=lambda item: {"color": item["properties"]["color"], "weight": 2, "fillOpacity": 0.1},
    ).add_to(world)
    folium.GeoJson(
        {"type": "FeatureCollection", "features": dots},
        name="chips",
        marker=folium.CircleMarker(radius=5, weight=1, color="#222222", fill=True, fill_opacity=0.9),
        style_function=lambda item: {
            "fillColor": item["properties"]["color"],
            "fillOpacity": item["properties"]["opacity"],
            "color": "#222222",
        },
        tooltip=folium.GeoJsonTooltip(fields=["chip_id", "biome", "split"]),
        popup=folium.GeoJsonPopup(fields=names),
    ).add_to(world)


def _graticule() -> dict[str, Any]:
    meridians = [[[lon, lat] for lat in range(-80, 81, 10)] for lon in range(-180, 181, 30)]
    parallels = [[[-180, lat], [180, lat]] for lat in range(-60, 61, 30)]
    return {"type": "MultiLineString", "coordinates": meridians + parallels}


def _legend() -> str:
    rows = "".join(
        f'<div><i style="background:{color}"></i>{escape(name)}</div>'
        for name, color in zip(biome_names, biome_colors, strict=True)
    )
    rows += f'<div><i style="background:{no_biome_color}"></i>no biome</div>'
    rows += '<div><i class="unused"></i>pale: planned, not stored</div>'
    return f'<details class="m3etl-legend" open><summary>biomes (click to fold)</summary>{rows}</details>'


def _inlined() -> str:
    web = files("m3etl.io") / "web"
    style = (web / "leaflet.css").read_text(encoding="utf-8")
    script = (web / "leaflet.js").read_text(encoding="utf-8")
    own = (
        ".m3etl-title{position:fixed;z-index:9999;left:56px;top:10px;background:#fff;padding:4px 10px;"
        "font:13px sans-serif;border-radius:4px;box-shadow:0 1px 4px rgba(0,0,0,.3)}"
        ".m3etl-legend{position:fixed;z-index:9999;right:10px;bottom:26px;background:#fff;padding:6px 10px;"
        "font:11px sans-serif;border-radius:4px;box-shadow:0 1px 4px rgba(0,0,0,.3)}"
        ".m3etl-legend summary{cursor:pointer}"
        ".m3etl-legend i{display:inline-block;width:10px;height:10px;border-radius:5px;border:1px solid #222;"
        "margin-right:6px}"
        ".leaflet-container{background:#dfe7ec}"
    )
    return f"<style>{style}{own}</style><script>{script}</script>"
