"""What an export says at its end: biomes with their names, and shares whose words say of what."""

from __future__ import annotations

from m3etl.io.ledger import ChipState
from m3etl.io.outcomes import Kind
from m3etl.spec.biomes import no_biome
from m3etl.stages.exportreport import _biome_rows, what_to_do_about


def test_biomes_have_ids_and_names():
    tally = {
        (0, False, ChipState.SEALED): 3,
        (0, False, ChipState.UNUSABLE): 1,
        (0, True, ChipState.SEALED): 1,
        (no_biome, False, ChipState.FAILED): 2,
    }
    assert _biome_rows(tally) == [
        {"biome": no_biome, "name": "none", "planned": 2, "usable": 0, "from the reserve": 0},
        {"biome": 0, "name": "Tundra", "planned": 4, "usable": 4, "from the reserve": 1},
    ]


def test_whoever_has_failed_chips_is_told_what_helps():
    """The same command goes on with exit code 4 and changes nothing about them."""
    assert "may pass" in what_to_do_about([Kind.NETWORK])
    lasting = what_to_do_about([Kind.SOURCE_CHANGED, Kind.DETERMINISTIC, Kind.SOURCE_CHANGED])
    assert "(deterministic, source_changed)" in lasting
    assert lasting.endswith("then try `m3etl export --retry-failed`")
    assert what_to_do_about([Kind.WRONG, Kind.DETERMINISTIC]).endswith("may pass: try `m3etl export --only wrong`")
