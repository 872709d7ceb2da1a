"""Masks: exact ratio, keyed by seed, step and row, independent of the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.learn.masking import draw_visible, hidden_count, hidden_of


@settings(max_examples=60, deadline=None)
@given(
    patches=st.integers(2, 400),
    ratio=st.floats(0.01, 0.99),
    rows=st.lists(st.integers(0, 10_000_000), min_size=1, max_size=8),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 2**40),
)
def test_every_image_hides_exactly_the_asked_share(patches, ratio, rows, seed, step):
    visible = draw_visible(rows, patches=patches, ratio=ratio, seed=seed, step=step)
    hidden = hidden_of(visible, patches)
    assert hidden.shape == (len(rows), hidden_count(patches, ratio))
    assert abs(hidden.shape[1] - ratio * patches) <= max(0.5, 1 - ratio * patches, 1 - (1 - ratio) * patches) + 1e-9
    for shown, covered in zip(visible, hidden, strict=True):
        assert sorted([*shown, *covered]) == list(range(patches))


def test_a_mask_follows_from_seed_step_and_row_alone():
    together = draw_visible([7, 3, 9], patches=49, ratio=0.6, seed=1, step=5)
    alone = draw_visible([3], patches=49, ratio=0.6, seed=1, step=5)
    assert np.array_equal(together[1:2], alone)
    for other in (
        draw_visible([3], patches=49, ratio=0.6, seed=2, step=5),
        draw_visible([3], patches=49, ratio=0.6, seed=1, step=6),
        draw_visible([4], patches=49, ratio=0.6, seed=1, step=5),
    ):
        assert not np.array_equal(alone, other)


def test_masks_are_uniform_over_patches():
    visible = draw_visible(np.arange(20_000), patches=16, ratio=0.6, seed=0, step=0)
    share = np.bincount(visible.ravel(), minlength=16) / 20_000
    assert np.all(np.abs(share - 6 / 16) < 0.015)


def test_known_counts_and_refusals():
    assert hidden_count(49, 0.6) == 29
    assert hidden_count(2, 0.01) == 1
    assert hidden_count(2, 0.99) == 1
    with pytest.raises(InputError, match="cannot mask"):
        hidden_count(1, 0.6)
    with pytest.raises(InputError, match="cannot mask"):
        hidden_count(49, 1.0)
