"""Every shipped configuration through the real parser; every wrong option named in one message."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from m3etl.errors import InputError
from m3etl.learn.settings import (
    PretrainConfig,
    checked_config,
    compose_config,
    conf_path,
    config_yaml,
    option_names,
    preset_of,
    presets,
    read_config,
)

package = Path(__file__).parents[3] / "m3etl"


def test_every_shipped_preset_parses_and_round_trips():
    assert {path.stem for path in (conf_path / "preset").glob("*.yaml")} == set(presets)
    for preset in presets:
        config = compose_config(preset=preset)
        assert read_config(config_yaml(config)) == config


def test_defaults_of_yaml_and_dataclasses_are_the_same():
    document = yaml.safe_load((conf_path / "pretrain.yaml").read_text())
    assert document.pop("defaults") == ["_self_", {"preset": "quick"}]
    assert checked_config(document) == PretrainConfig()


def test_the_paper_preset_is_the_paper_recipe():
    config = compose_config(preset="paper")
    assert config.data.batch_size * config.trainer.accumulate == 4096
    assert config.optim.base_lr * 4096 / 256 == pytest.approx(2.4e-3)
    assert (config.trainer.max_epochs, config.optim.warmup_fraction) == (200, 0.2)
    assert (config.optim.betas, config.optim.weight_decay) == ((0.9, 0.95), 0.05)
    assert (config.mask.ratio, config.model.decoder_width, config.data.flips) == (0.6, 512, False)


def test_overrides_win_over_the_preset():
    config = compose_config(
        ["preset=paper", "model.size=tiny", "data.leave_out=[biome,land_cover]", "optim.lr=2e-4", "data.crop_px=null"]
    )
    assert (config.model.size, config.optim.lr, config.data.crop_px) == ("tiny", 2e-4, None)
    assert config.data.leave_out == ("biome", "land_cover")
    assert config.trainer.max_steps is None
    assert preset_of(["preset=paper", "model.size=tiny"]) == "paper"


def test_fixed_weights_can_be_given_in_two_ways():
    one = compose_config(["loss.weighting=fixed", "loss.weights={biome: 0.5}"])
    other = compose_config(["loss.weighting=fixed", "loss.weights.biome=0.5"])
    assert one.loss.weights == other.loss.weights == {"biome": 0.5}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.sise=atto"], "unknown option model.sise (did you mean model.size?)"),
        (["model.size=mega"], "model.size = mega"),
        (["model.size=5"], "model.size = 5 is not of type str"),
        (["trainer.max_steps=0"], "trainer.max_steps = 0"),
        (["trainer.max_steps=soon"], "trainer.max_steps = 'soon' is not of type"),
        (["mask.ratio=1.5"], "mask.ratio = 1.5"),
        (["preset=huge"], "unknown preset 'huge'"),
        (["quick"], "'quick' is not KEY=VALUE"),
        (["+new.key=1"], "unknown option +new.key"),
        (["data.arrays=[a"], "cannot use the options"),
        (["trainer.max_steps=1,2"], "cannot use the options"),
        (["loss.weights={biome: 2}"], "loss.weights needs loss.weighting=fixed"),
        (["run.name=../x"], "plain directory name"),
        (["data.batch_size=0"], "data.batch_size"),
        (["model.patch_px=12"], "must be 8, 16 or 32"),
    ],
)
def test_a_wrong_option_is_named_with_the_known_ones(overrides, said):
    with pytest.raises(InputError) as caught:
        compose_config(overrides)
    assert said in caught.value.message
    assert "trainer.devices" in caught.value.hint


def test_all_problems_come_at_once():
    with pytest.raises(InputError, match=r"unknown option a.b.*unknown option c.d"):
        compose_config(["a.b=1", "c.d=2"])


def test_composing_leaves_hydra_as_it_was():
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    compose_config()
    assert GlobalHydra.instance().hydra is before


def test_the_digest_follows_what_decides_the_result():
    base = compose_config()
    same = compose_config(["run.name=a", "run.pictures=0", "data.threads=1", "trainer.log_every=1"])
    assert base.digest() == same.digest()
    for override in ("run.seed=1", "model.size=femto", "data.batch_size=8", "optim.lr=1e-4", "trainer.max_steps=9"):
        assert compose_config([override]).digest() != base.digest()


def test_every_option_is_read_somewhere():
    read = {
        node.attr
        for path in [*sorted((package / "learn").glob("*.py")), *sorted((package / "stages").glob("*.py"))]
        if path.name != "settings.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert {name.split(".")[1] for name in option_names()} - read == set()
    assert len(option_names()) == sum(len(fields(getattr(PretrainConfig(), f.name))) for f in fields(PretrainConfig))
