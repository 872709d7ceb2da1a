"""Identifiers of M3LEO's tiles, against five that are published, whatever the program's print settings are."""

from __future__ import annotations

import numpy as np

from m3etl.spec.m3leo import grid_id, tile_ids

published = {
    "0127acc7072b4": (-124.33567, 40.19860, -124.28366, 40.23848),
    "28225af8c635c": (-124.35024, 40.23508, -124.29819, 40.27496),
    "12f2787fa918c": (-124.36484, 40.27155, -124.31275, 40.31143),
    "36566329c2021": (-124.37946, 40.30801, -124.32734, 40.34790),
    "27a3b9cd6d88f": (-124.39411, 40.34447, -124.34195, 40.38437),
}


def test_the_published_identifiers_come_out():
    assert tile_ids(np.array(list(published.values()))) == list(published)


def test_print_settings_and_noise_below_the_fifth_decimal_change_nothing():
    noise = np.random.default_rng(0).uniform(-4e-6, 4e-6, (5, 4))
    with np.printoptions(precision=2, suppress=True, sign="+", legacy="1.13"):
        assert tile_ids(np.array(list(published.values())) + noise) == list(published)


def test_every_identifier_has_thirteen_digits_and_begins_below_four():
    generator = np.random.default_rng(1)
    corner = generator.uniform(-80, 80, (200, 2))
    names = tile_ids(np.concatenate([corner, corner + 0.04], axis=1))
    assert len(set(names)) == 200
    assert {len(name) for name in names} == {13}
    assert {name[0] for name in names} <= set("0123")


def test_a_set_of_tiles_has_an_identifier_of_its_order():
    names = list(published)
    assert grid_id(names) != grid_id(names[::-1])
    assert len(grid_id(names)) == 13
