"""The texts beside a published data set: the card, the licence notices and the Croissant description. Pure text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from m3etl import __version__
from m3etl.spec.licensing import OverallLicense
from m3etl.spec.modality import ArraySpec, Shape

# https://huggingface.co/docs/hub/datasets-cards, size_categories
size_categories = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
array_columns = ("array", "bands", "pixels", "stored as", "units", "source", "licence")
synthetic_warning = (
    "**This data is synthetic.** Its pixels were made up by the embedded Earth Engine of m3etl. They have the layout "
    "of real satellite data but show no place on Earth: do not use them for science, only to try software."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the texts state. repository: ORG/NAME; splits and biomes: name -> chips; bytes: of all data files."""

    repository: str
    synthetic: bool
    license: OverallLicense
    specs: Sequence[ArraySpec]
    chip_m: float
    chips: int
    splits: Mapping[str, int]
    biomes: Mapping[str, int]
    regions: Sequence[str]
    years: Sequence[int]
    bytes: int
    dataset_id: str

    @property
    def title(self) -> str:
        """Name for people; says when the data is synthetic."""
        name = self.repository.partition("/")[2]
        return f"{name} (synthetic, made up by m3etl)" if self.synthetic else name


def render_card(facts: CardFacts) -> str:
    """README.md of the data set repository, with the Hub's YAML front matter."""
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    warning = f"{synthetic_warning}\n\n" if facts.synthetic else ""
    side = facts.chip_m / 1000
    years = f"{min(facts.years)} to {max(facts.years)}" if facts.years else "not stated"
    return f"""---
{front}---

# {facts.title}

{warning}{facts.chips:,} chips of {side:g} x {side:g} km with {len(facts.specs)} aligned arrays each,
from {", ".join(facts.regions) or "unnamed places"}, years {years}, {facts.bytes / 1e9:.3f} GB.
Made with [m3etl](https://pypi.org/project/m3etl/) {__version__}; data set id `{facts.dataset_id}`.

## Read it

```python
import xarray as xr
from huggingface_hub import snapshot_download

folder = snapshot_download("{facts.repository}", repo_type="dataset")
tree = xr.open_datatree(f"{{folder}}/chips.zarr", engine="zarr")
print(tree["{facts.specs[0].name}"]["data"])  # physical values, NaN where nothing was observed
```

`metadata.parquet` has one row per chip (place, labels, split, and per array the time and how much was observed);
`row` is the position along the `chip` dimension. `provenance/` names every source image and the sha256 of every chip.

## Arrays

{_table(array_columns, [_array_row(facts, spec) for spec in facts.specs])}

## Splits and biomes

{_table(("split", "chips"), [(name, f"{count:,}") for name, count in facts.splits.items()])}

{_table(("biome", "chips"), [(name, f"{count:,}") for name, count in facts.biomes.items()])}

Splits are whole spatial blocks; chips near a block of another split are `buffer` and belong to none.

## Licence

{facts.license.name}: see [LICENSES.md](LICENSES.md) for every source and the notices to reproduce.
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


def _size_category(chips: int) -> str:
    return next((name for limit, name in size_categories if chips < limit), "100M<n<1B")


def _array_row(facts: CardFacts, spec: ArraySpec) -> tuple[str, ...]:
    side = f"{spec.pixels(facts.chip_m)} x {spec.pixels(facts.chip_m)}" if spec.shape is Shape.RASTER else "vector"
    stored = spec.dtype if spec.scale == 1 else f"{spec.dtype} x {spec.scale:g}"
    terms = ", ".join(item.id for item in facts.license.arrays.get(spec.name, ())) or "nothing observed"
    return (spec.name, _bands_of(spec), side, stored, spec.units, ", ".join(spec.source) or "computed", terms)


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
