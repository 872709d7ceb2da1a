"""The 14 biomes of RESOLVE Ecoregions 2017 in MMEarth's order, and how a user names some of them."""

from __future__ import annotations

from collections.abc import Sequence

from m3etl.errors import InputError
from m3etl.spec.spelling import did_you_mean

# Order of MMEarth's labels 0-13 (vishalned/MMEarth-data, biome_labels.json); RESOLVE's own BIOME_NUM differs.
biome_names: tuple[str, ...] = (
    "Tundra",
    "Tropical & Subtropical Moist Broadleaf Forests",
    "Mediterranean Forests, Woodlands & Scrub",
    "Deserts & Xeric Shrublands",
    "Temperate Grasslands, Savannas & Shrublands",
    "Boreal Forests/Taiga",
    "Temperate Conifer Forests",
    "Temperate Broadleaf & Mixed Forests",
    "Montane Grasslands & Shrublands",
    "Mangroves",
    "Flooded Grasslands & Savannas",
    "Tropical & Subtropical Grasslands, Savannas & Shrublands",
    "Tropical & Subtropical Dry Broadleaf Forests",
    "Tropical & Subtropical Coniferous Forests",
)
biome_count = len(biome_names)
no_biome = -1

# "Rock and Ice" carries the number of another biome in RESOLVE: it is recognised by name only.
names_outside_biomes = frozenset({"n/a", "rock and ice"})


def biome_name(biome: int) -> str:
    """The name of a biome id; "none" for -1."""
    return biome_names[biome] if 0 <= biome < biome_count else "none"


def parse_biomes(text: str) -> tuple[int, ...]:
    """Biome ids of a command line value: "14" or "all" is all of them, else ids (0-13) or names.

    Names contain commas, so several are separated by commas or semicolons and a whole name is recognised first. A
    single "14" is the number of biomes and not an id. Raises InputError with the valid names.
    """
    whole = text.strip()
    if whole.lower() in {str(biome_count), "all"}:
        return tuple(range(biome_count))
    separator = ";" if ";" in whole else ","
    items = [whole] if _matches(whole) else [item.strip() for item in _split_names(whole, separator)]
    return select_biomes([item for item in items if item])


def select_biomes(selection: Sequence[int | str]) -> tuple[int, ...]:
    """Sorted biome ids for ids (0-13), digits, exact names or unambiguous beginnings of names (case does not matter).

    Raises InputError that lists every wrong item and the valid biomes.
    """
    found: set[int] = set()
    problems: list[str] = []
    for item in selection:
        matches = _matches(item)
        if len(matches) == 1:
            found.add(matches[0])
        elif matches:
            problems.append(
                f"{item!r} could be any of " + ", ".join(f"{index} {biome_names[index]}" for index in matches)
            )
        else:
            problems.append(f"{item!r} is no biome{did_you_mean(str(item), biome_names)}")
    if not selection:
        problems.append("no biome is named")
    if problems:
        valid = "; ".join(f"{index} {name}" for index, name in enumerate(biome_names))
        raise InputError(
            "unknown biomes: " + "; ".join(problems),
            hint=f"Use 14 for all, or ids or names of these: {valid}.",
        )
    return tuple(sorted(found))


def _matches(item: int | str) -> list[int]:
    """Ids that an item can mean: one for an id or an exact name, possibly several for a beginning."""
    text = str(item).strip().lower()
    if text.lstrip("-").isdigit():
        number = int(text)
        return [number] if 0 <= number < biome_count else []
    exact = [index for index, name in enumerate(biome_names) if name.lower() == text]
    return exact or [index for index, name in enumerate(biome_names) if text and name.lower().startswith(text)]


def _split_names(text: str, separator: str) -> list[str]:
    """Split at separators, but keep together pieces that make up one whole biome name with commas in it."""
    pieces = [piece.strip() for piece in text.split(separator)]
    full_names = {name.lower() for name in biome_names}
    items: list[str] = []
    position = 0
    while position < len(pieces):
        for end in range(len(pieces), position + 1, -1):
            if ", ".join(pieces[position:end]).lower() in full_names:
                items.append(", ".join(pieces[position:end]))
                position = end
                break
        else:
            items.append(pieces[position])
            position += 1
    return items
