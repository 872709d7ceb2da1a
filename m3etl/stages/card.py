"""The texts beside a published data set: the card, the licence notices and the Croissant description. Pure text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from m3etl import __version__
from m3etl.spec.licensing import OverallLicense
from m3etl.spec.modality import ArraySpec, Shape, Values
from m3etl.stages.summary import size_text

# https://huggingface.co/docs/hub/datasets-cards, size_categories
published_files = (
    ("`chips.zarr/`", "the values: a group per array, `(chip, band, y, x)` or `(chip, feature)`"),
    (
        "`metadata.parquet`",
        "one row per chip: place, labels, split, and per array its time and how much was observed; `row` is the "
        "position along `chip`",
    ),
    ("`provenance/`", "every source image, its time and distance from the chip's date, and the sha256 of every value"),
    ("`stats.json`", "mean, deviation and percentiles per band, over the train split"),
    ("`croissant.json`, `manifest.json`", "the table for machines; size and checksum of every file"),
)
size_categories = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
array_columns = ("array", "what it is", "bands", "pixels", "stored as", "units", "licence")
split_texts = {
    "block": "Chips were shared out by place: all chips of an equal-area block have the same split.",
    "bands": "Chips were shared out by place: straight bands across the region have one split each.",
    "ecoregion": "Chips were shared out by place: all chips of an ecoregion have the same split.",
    "region": "The test split is a region of its own; the rest was shared out by equal-area blocks.",
    "points": "The splits are those that came with the places.",
}
synthetic_warning = (
    "**This data is synthetic.** Its pixels were made up by the embedded Earth Engine of m3etl. They have the layout "
    "of real satellite data but show no place on Earth: do not use them for science, only to try software."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the texts state. repository: ORG/NAME; splits, biomes and regions: name for people -> chips; years: of the
    chips; bytes: of all data files; split_by: a key of `split_texts`; buffer_km: least distance of different splits.
    """

    repository: str
    synthetic: bool
    license: OverallLicense
    specs: Sequence[ArraySpec]
    chip_m: float
    chips: int
    splits: Mapping[str, int]
    biomes: Mapping[str, int]
    regions: Mapping[str, int]
    years: Sequence[int]
    bytes: int
    dataset_id: str
    split_by: str = "block"
    buffer_km: float = 0.0

    @property
    def title(self) -> str:
        """Name for people; says when the data is synthetic."""
        name = self.repository.partition("/")[2]
        return f"{name} (synthetic data, made up by m3etl)" if self.synthetic else name


def render_card(facts: CardFacts) -> str:
    """README.md of the data set repository, with the Hub's YAML front matter."""
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    warning = f"{synthetic_warning}\n\n" if facts.synthetic else ""
    terms = facts.license.name[:1].upper() + facts.license.name[1:]
    first = next((spec for spec in facts.specs if spec.shape is Shape.RASTER), facts.specs[0])
    modalities = len({spec.modality for spec in facts.specs})
    return f"""---
{front}---

# {facts.title}

{warning}{_introduction(facts)} For each chip there are
{len(facts.specs)} arrays of {modalities} modalities, on one grid in the chip's own UTM zone: satellite images chosen
around one date, and maps of the same ground. All of it is {size_text(facts.bytes)} of Zarr, which xarray opens as it
is. What was not observed is missing (NaN) and never zero.

## Read it

```python
import xarray as xr
from huggingface_hub import snapshot_download

folder = snapshot_download("{facts.repository}", repo_type="dataset")
tree = xr.open_datatree(f"{{folder}}/chips.zarr", engine="zarr")
print(tree["{first.name}"]["data"])  # physical values, NaN where nothing was observed
```

{_table(("file", "what it holds"), published_files)}

## Arrays

{_table(array_columns, [_array_row(facts, spec) for spec in facts.specs])}

{_sources(facts)}

## Splits

{_table(("split", "chips"), _count_rows(facts.splits))}

{_split_text(facts)}

## Places

{_table(("region", "chips"), _count_rows(facts.regions))}

{_table(("biome", "chips"), _count_rows(facts.biomes))}

Biomes and ecoregions are those of RESOLVE Ecoregions 2017, at the centre of the chip.

## Know before use

* Each chip has its own date; the images nearest to it can be days or weeks away (`provenance/` has the days).
* Where UTM zones meet, chips of neighbouring zones can overlap.
* Maps such as land cover and canopy height are predictions of models, not measurements on the ground.

## Licence

{terms}: see [LICENSES.md](LICENSES.md) for every source and the notices to reproduce.

## Version

Made with m3etl {__version__}. Data set id: `{facts.dataset_id}`
(a checksum over all values; cite it to name this state).
"""


def render_licenses(facts: CardFacts) -> str:
    """LICENSES.md: per array its terms, and the notices that must go with the data."""
    rows: list[tuple[str, str, str]] = []
    for name, terms in facts.license.arrays.items():
        rows.extend((name, item.title, item.url) for item in terms)
    notices = "\n".join(f"* {text}" for text in facts.license.notices) or "None of the sources asks for a notice."
    warning = f"{synthetic_warning}\n\n" if facts.synthetic else ""
    return (
        f"# Licences of {facts.title}\n\n{warning}Overall: {facts.license.name}.\n\n"
        f"{_table(('array', 'terms', 'text'), rows)}\n\n## Notices\n\n{notices}\n"
    )


def describe_croissant(facts: CardFacts, columns: Mapping[str, str], metadata_sha256: str) -> dict[str, Any]:
    """croissant.json: the table of chips as a Croissant record set, the Zarr store as a file set.

    columns: name -> Croissant data type of metadata.parquet. Source: http://mlcommons.org/croissant/1.0.
    """
    url = f"https://huggingface.co/datasets/{facts.repository}"
    return {
        "@context": _croissant_context,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.repository.partition("/")[2],
        "description": (f"{synthetic_warning} " if facts.synthetic else "")
        + f"{facts.chips} aligned multi-modal Earth-observation chips: {', '.join(spec.name for spec in facts.specs)}.",
        "license": f"{url}/blob/main/LICENSES.md",
        "url": url,
        "version": "1.0.0",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "metadata",
                "name": "metadata",
                "contentUrl": f"{url}/resolve/main/metadata.parquet",
                "encodingFormat": "application/x-parquet",
                "sha256": metadata_sha256,
            },
            {
                "@type": "cr:FileObject",
                "@id": "repository",
                "name": "repository",
                "contentUrl": url,
                "encodingFormat": "git+https",
                "sha256": facts.dataset_id,
            },
            {
                "@type": "cr:FileSet",
                "@id": "chips",
                "name": "chips",
                "containedIn": {"@id": "repository"},
                "encodingFormat": "application/vnd+zarr",
                "includes": "chips.zarr/**",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "chip",
                "name": "chip",
                "description": "One row per chip; `row` is its position along the chip dimension of the store.",
                "field": [_croissant_field(name, kind) for name, kind in columns.items()],
            }
        ],
    }


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    terms = {"license": facts.license.hub_id}
    if facts.license.hub_id == "other":
        terms |= {"license_name": "per-array-terms", "license_link": "LICENSES.md"}
    tags = ["earth-observation", "remote-sensing", "multimodal", "zarr", "croissant", "m3etl"]
    return {
        **terms,
        "pretty_name": facts.title,
        "size_categories": [_size_category(facts.chips)],
        "task_categories": ["image-feature-extraction"],
        "tags": [*tags, *sorted({spec.modality.replace("_", "-") for spec in facts.specs})]
        + (["synthetic"] if facts.synthetic else []),
        "configs": [
            {
                "config_name": "metadata",
                "default": True,
                "data_files": [{"split": "chips", "path": "metadata.parquet"}],
            }
        ],
    }


def _introduction(facts: CardFacts) -> str:
    """`1,120 chips of 1.28 x 1.28 km (128 x 128 pixels of 10 m) in 3 regions, from 2018 to 2020.`"""
    side, pixels = facts.chip_m / 1000, round(facts.chip_m / 10)
    chips = "One chip" if facts.chips == 1 else f"{facts.chips:,} chips"
    where = next(iter(facts.regions), "") if len(facts.regions) < 2 else "several regions"
    years = ""
    if facts.years:
        first, last = min(facts.years), max(facts.years)
        years = f", from {first} to {last}" if first != last else f", from {first}"
    places = f" in {where}" if where else ""
    return f"{chips} of {side:g} x {side:g} km ({pixels} x {pixels} pixels of 10 m){places}{years}."


def _split_text(facts: CardFacts) -> str:
    if facts.buffer_km <= 0:
        return split_texts[facts.split_by]
    return (
        f"{split_texts[facts.split_by]} Chips nearer than {facts.buffer_km:g} km to a place of another split are "
        "`buffer`: leave them out."
    )


def _sources(facts: CardFacts) -> str:
    rows = [(spec.name, ", ".join(f"`{name}`" for name in spec.source)) for spec in facts.specs if spec.source]
    others = [spec.name for spec in facts.specs if not spec.source]
    computed = f"\n\nComputed from the chip itself: {', '.join(others)}." if others else ""
    return "Where they come from (ids of Earth Engine's catalogue):\n\n" + _table(("array", "source"), rows) + computed


def _count_rows(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in counts.items()]


def _size_category(chips: int) -> str:
    return next((name for limit, name in size_categories if chips < limit), "100M<n<1B")


def _array_row(facts: CardFacts, spec: ArraySpec) -> tuple[str, ...]:
    side = f"{spec.pixels(facts.chip_m)} x {spec.pixels(facts.chip_m)}" if spec.shape is Shape.RASTER else "vector"
    stored = spec.dtype if spec.scale == 1 else f"{spec.dtype} x {spec.scale:g}"
    terms = ", ".join(item.id for item in facts.license.arrays.get(spec.name, ())) or "nothing observed"
    units = "classes" if spec.values is Values.CLASSES else spec.units
    return (spec.name, spec.title, _bands_of(spec), side, stored, units, terms)


def _bands_of(spec: ArraySpec) -> str:
    of_each = f" (each of {' '.join(spec.periods)})" if spec.periods else ""
    return " ".join(spec.band_names) + of_each


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _croissant_field(name: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"chip/{name}",
        "name": name,
        "dataType": kind,
        "source": {"fileObject": {"@id": "metadata"}, "extract": {"column": name}},
    }


# The context of the Croissant 1.0 specification, verbatim.
_croissant_context: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
