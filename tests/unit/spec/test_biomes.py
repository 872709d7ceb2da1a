"""The biome table against MMEarth's, and the ways to name biomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.spec.biomes import biome_count, biome_name, biome_names, parse_biomes, select_biomes


def test_order_is_that_of_mmearth(real_data: Path):
    labels = json.loads((real_data / "mmearth_stats" / "biome_labels.json").read_text())
    assert labels == {name: number for number, name in enumerate(biome_names)}


def test_fourteen_means_all_and_names_are_found():
    assert biome_count == 14
    assert parse_biomes("14") == parse_biomes(" all ") == tuple(range(14))
    assert parse_biomes("13,0") == (0, 13)
    assert parse_biomes("Mangroves; tundra") == (0, 9)
    assert parse_biomes("mang,5") == (5, 9)
    assert biome_name(9) == "Mangroves"
    assert biome_name(-1) == "none"


@given(st.lists(st.integers(0, 13), min_size=1, unique=True))
def test_whole_names_survive_their_own_commas(chosen: list[int]):
    assert parse_biomes(",".join(biome_names[biome] for biome in chosen)) == tuple(sorted(chosen))
    assert select_biomes(chosen) == tuple(sorted(chosen))


def test_every_wrong_item_is_named_with_the_valid_ones():
    with pytest.raises(InputError) as caught:
        parse_biomes("Savannah, 15, Temperate, -2")
    message = str(caught.value)
    for expected in ("'Savannah'", "'15'", "'-2'", "4 Temperate Grasslands", "7 Temperate Broadleaf", "13 Tropical"):
        assert expected in message
    with pytest.raises(InputError, match="no biome is named"):
        parse_biomes(" , ")
