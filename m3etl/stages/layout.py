"""What the first export fixes for good: the arrays in order, their declarations, the level of Sentinel-2 and the chips
per shard and lot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from m3etl.campaign import Campaign, ExportConfig, read_config, save_config
from m3etl.errors import DamagedError, InputError
from m3etl.io.ledger import Ledger
from m3etl.io.store import choose_shard_chips
from m3etl.spec.catalog import find_array, known_arrays, select_arrays
from m3etl.spec.catalog_insar import gunw_recipe
from m3etl.spec.modality import ArraySpec
from m3etl.spec.roworder import choose_lot_chips


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is fixed at the first export: the arrays in order and the chips per shard."""

    specs: Mapping[str, ArraySpec]
    shard_chips: int


def fix_layout(
    campaign: Campaign, ledger: Ledger, modalities: Sequence[str], count_planned: Callable[[], int]
) -> Layout:
    """The layout of the campaign, fixed now where it is not. InputError where what is asked for does not go with it."""
    names = ledger.read_meta("arrays")
    if names is None:
        specs = wanted_specs(campaign.config.export, modalities)
        store, planned_chips = campaign.config.store, count_planned()
        shard_chips = store.shard_chips or choose_shard_chips(planned_chips, specs, campaign.chip_m)
        ledger.write_meta("shard_chips", shard_chips)
        ledger.write_meta("lot_chips", choose_lot_chips(planned_chips, shard_chips, store.lot_chips))
        ledger.write_meta("s2", campaign.config.export.s2)
        ledger.write_meta("catalogue", {spec.name: spec.digest() for spec in specs})
        ledger.write_meta("arrays", [spec.name for spec in specs])
    check_level(campaign.config.export.s2, ledger.read_meta("s2"))
    check_catalogue({**ledger.read_meta("catalogue"), **campaign.config.catalogue})
    return read_layout_of(ledger)


def read_layout_of(ledger: Ledger) -> Layout:
    """The layout recorded in the ledger; DamagedError where there is none."""
    names, shard_chips = ledger.read_meta("arrays"), ledger.read_meta("shard_chips")
    if names is None or shard_chips is None:
        raise DamagedError("the ledger names no arrays", hint="Run `m3etl export`, which fixes them.")
    return Layout(specs={name: find_array(name) for name in names}, shard_chips=int(shard_chips))


def further_specs(layout: Layout, config: ExportConfig, modalities: Sequence[str]) -> tuple[ArraySpec, ...]:
    """Arrays that are asked for by name and that the campaign does not have yet."""
    asked = wanted_specs(config, modalities) if modalities else ()
    return tuple(spec for spec in asked if spec.name not in layout.specs)


def with_catalogue(campaign: Campaign, layout: Layout) -> Campaign:
    """The campaign with the digests of its arrays in campaign.toml."""
    changed = campaign.with_config(catalogue={spec.name: spec.digest() for spec in layout.specs.values()})
    if read_config(changed.config_path) != changed.config:
        save_config(changed)
    return changed


def wanted_specs(config: ExportConfig, modalities: Sequence[str]) -> tuple[ArraySpec, ...]:
    """The arrays that a first export fixes. InputError for options that are none."""
    if config.s2 not in ("auto", "l2a", "l1c", "both"):
        raise InputError(f"unknown s2 level: {config.s2!r}", hint="Use auto, l2a, l1c or both.")
    if config.lane not in ("pixels", "batch"):
        raise InputError(f"unknown lane: {config.lane!r}", hint="Use pixels or batch.")
    if config.anchor_rule not in ("random", "best"):
        raise InputError(f"unknown anchor rule: {config.anchor_rule!r}", hint="Use random or best.")
    chosen = select_arrays(modalities or config.modalities)
    imported = [spec.modality for spec in chosen if spec.recipe == gunw_recipe]
    if imported:
        raise InputError(
            f"{imported[0]} does not come from Earth Engine",
            hint="Export the others, then give them its products: `m3etl tile --gunw FOLDER`.",
        )
    left_out = {"l2a": "sentinel2_l1c", "l1c": "sentinel2_l2a"}.get(config.s2, "")
    return tuple(spec for spec in chosen if spec.name != left_out)


def check_level(wanted: str, fixed: str) -> None:
    """InputError where another level of Sentinel-2 is asked for than was fixed."""
    if wanted != fixed:
        raise InputError(
            f"the first export fixed the Sentinel-2 level {fixed!r}; {wanted!r} was asked for now",
            hint=f"Go on with `--s2 {fixed}`, or start another campaign.",
        )


def check_catalogue(recorded: Mapping[str, str]) -> None:
    """InputError where the catalogue declares one of the recorded arrays otherwise now, or not at all."""
    known = known_arrays()
    changed = sorted(name for name, digest in recorded.items() if name not in known or known[name].digest() != digest)
    if changed:
        raise InputError(
            f"the catalogue declares these arrays otherwise than when the campaign began: {', '.join(changed)}",
            hint="Go on with the m3etl that began it, or start another campaign.",
        )
