"""A misspelt name is answered with the one that was meant, in every kind of name a user types."""

from __future__ import annotations

import pytest

from m3etl.cli.main import run
from m3etl.spec.spelling import did_you_mean


@pytest.mark.parametrize(
    ("wrong", "known", "text"),
    [
        ("eurpe", ("china", "europe"), " (did you mean europe?)"),
        ("TUNDRE", ("Tundra", "Mangroves"), " (did you mean Tundra?)"),
        ("sent", ("sentinel1", "sentinel2", "aster"), " (did you mean sentinel1 or sentinel2?)"),
        (["astr", "wordcover"], ("aster", "worldcover"), " (did you mean aster or worldcover?)"),
        ("atlantis", ("china", "europe"), ""),
        ("", ("china", "europe"), ""),
        ("x", (), ""),
    ],
)
def test_the_nearest_known_name_is_suggested(wrong, known, text):
    assert did_you_mean(wrong, known) == text


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["exprt"], "export"),
        (["upload"], "upload-hf"),
        (["sample", "--region", "eurpe"], "europe"),
        (["sample", "--biomes", "Mangrove, Tundre"], "Tundra"),
        (["sample", "--strategy", "gird"], "grid"),
        (["sample", "--chps", "3"], "--chips"),
        (["export", "--modality", "worldcver"], "worldcover"),
        (["export", "--modality", "mmerth"], "mmearth"),
        (["export", "--s2", "l2"], "l2a"),
        (["modalities", "astr"], "aster"),
        (["regions", "eurpe"], "europe"),
        (["pretrain", "model.sise=atto"], "model.size"),
        (["pretrain", "model.size=ato"], "atto"),
        (["pretrain", "preset=quik"], "quick"),
        (["emulator", "srve"], "serve"),
    ],
)
def test_a_misspelt_name_is_2_and_names_the_one_that_was_meant(tmp_path, capsys, arguments, meant):
    assert run(["-C", str(tmp_path / "c"), *arguments]) == 2
    message = capsys.readouterr().err
    assert "id you mean" in message
    assert meant in message[message.index("id you mean") :]
    assert not (tmp_path / "c").exists()
