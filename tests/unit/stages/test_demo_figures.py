"""The demo's figures of training are honest: how far each loss fell, and in words which did not."""

from __future__ import annotations

from m3etl.stages.demo import _hardly_learned, _loss_rows

facts = {
    "steps": 150,
    "loss_before": {"worldcover": 2.4, "aster_slope": 0.765, "month": 0.5, "biome": 2.6},
    "loss_after": {"worldcover": 1.2, "aster_slope": 0.763, "month": 0.55},
}


def test_every_loss_says_how_far_it_fell():
    assert [row["change"] for row in _loss_rows(facts)] == ["-50 %", "-0 %", "+10 %", None]


def test_what_was_not_learned_is_said_in_words():
    text = _hardly_learned(facts)["hardly learned"]
    assert text.startswith("aster_slope, month: 150 steps")
    assert "worldcover" not in text
    assert _hardly_learned({"loss_before": {"month": 1.0}, "loss_after": {"month": 0.2}}) == {}
