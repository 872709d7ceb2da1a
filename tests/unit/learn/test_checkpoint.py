"""Checkpoints are whole or absent, read without unpickling, and give a user the encoder in three lines."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from fakes.learning import write_campaign

from m3etl.errors import DamagedError, InputError, NothingSelectedError
from m3etl.learn.checkpoint import find_runs, load_encoder, read_checkpoint, write_checkpoint
from m3etl.learn.loader import ChipLoader
from m3etl.learn.settings import PretrainConfig
from m3etl.stages.pretrain import run_pretrain
from m3etl.stages.summary import SilentProgress

learn = Path(__file__).parents[3] / "m3etl" / "learn"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    campaign = write_campaign(tmp_path_factory.mktemp("checkpoint") / "campaign", splits=("train",) * 8)
    options = ("run.pictures=0", "run.name=one", "model.decoder_width=16", "data.crop_px=32", "data.batch_size=4")
    run_pretrain(
        campaign,
        overrides=(*options, "trainer.max_steps=2", "trainer.cpu_threads=1", "data.leave_out=[biome]"),
        progress=SilentProgress(),
    )
    return campaign


def test_the_encoder_loads_in_three_lines_and_takes_stored_chips(trained):
    encoder = load_encoder(trained.runs_path / "one")
    batch = next(iter(ChipLoader(trained.root, arrays=list(encoder.specs), batch_size=8, shuffle="none")))
    with torch.no_grad():
        features = encoder(batch)
    assert features.shape == (8, encoder.width) == (8, 320)
    assert torch.isfinite(features).all()
    assert len({tuple(row) for row in features.tolist()}) == 8
    assert encoder.bands[7:9] == ("B8", "B8A")
    assert not encoder.training
    weights = read_checkpoint(trained.runs_path / "one").model_tensors()
    assert torch.equal(weights["model.encoder.stem.weight"], encoder.encoder.stem.weight)


def test_reflectances_by_band_name_give_the_features_of_the_stored_chip(trained):
    encoder = load_encoder(trained.runs_path / "one")
    loader = ChipLoader(trained.root, arrays=list(encoder.specs), batch_size=4, shuffle="none")
    batch = next(iter(loader))
    spec = loader.specs["sentinel2_l2a"]
    stored = batch["sentinel2_l2a"].to(torch.int32)
    reflectance = torch.where(stored == spec.fill, torch.nan, stored * spec.scale)
    backwards = list(reversed(spec.bands))
    with torch.no_grad():
        direct = encoder(batch)
        named = encoder.from_reflectance(reflectance.flip(1), backwards)
        without = encoder.from_reflectance(reflectance[:, 1:4], spec.bands[1:4])
    torch.testing.assert_close(named, direct, rtol=0, atol=1e-4)
    assert torch.isfinite(without).all()
    assert not torch.allclose(without, direct, atol=1e-3)


def test_digital_numbers_unknown_levels_and_unnamed_bands_are_refused(trained):
    encoder = load_encoder(trained.runs_path / "one")
    with pytest.raises(InputError, match="look like digital numbers"):
        encoder.from_reflectance(torch.full((1, 1, 32, 32), 1200.0), ["B4"])
    with pytest.raises(InputError, match="not trained on landsat"):
        encoder.from_reflectance(torch.zeros(1, 1, 32, 32), ["B4"], level="landsat")
    with pytest.raises(InputError, match="2 bands were given with the names B4"):
        encoder.from_reflectance(torch.zeros(1, 2, 32, 32), ["B4"])
    with pytest.raises(InputError, match="names red"):
        encoder.from_reflectance(torch.zeros(1, 1, 32, 32), ["red"])


def test_a_checkpoint_knows_its_targets_and_their_families(trained):
    checkpoint = read_checkpoint(trained.runs_path / "one")
    assert "biome" not in checkpoint.targets
    assert checkpoint.target_families == {"land_cover"}
    assert {spec.name for spec in checkpoint.specs} >= set(checkpoint.targets)
    assert checkpoint.config.data.leave_out == ("biome",)
    assert [found.path for found in find_runs(trained.runs_path)] == [checkpoint.path]
    assert read_checkpoint(checkpoint.path).state == checkpoint.state
    assert set(checkpoint.optimizer_tensors()) >= {"weights.log_variance|exp_avg", "weights.log_variance|step"}


def write(folder: Path, step: int) -> Path:
    tensors = {"a": torch.tensor([float(step)])}
    return write_checkpoint(folder, model=tensors, optimizer=tensors, state={"step": step}, config=PretrainConfig())


def test_two_checkpoints_are_kept_and_half_written_ones_removed(tmp_path):
    (tmp_path / ".step-00000001.tmp-1").mkdir()
    for step in (1, 2, 3, 3):
        path = write(tmp_path, step)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["latest", "step-00000002", "step-00000003"]
    assert read_checkpoint(tmp_path).path == path
    assert read_checkpoint(tmp_path).model_tensors()["a"].item() == 3
    assert {item.name for item in path.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.yaml",
    }


def test_absent_damaged_and_foreign_checkpoints_are_named(tmp_path):
    with pytest.raises(NothingSelectedError, match="no checkpoint in"):
        read_checkpoint(tmp_path)
    path = write(tmp_path, 1)
    (path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(DamagedError, match=r"model\.safetensors is not what was written"):
        read_checkpoint(tmp_path).model_tensors()
    (path / "model.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"cannot read .*model\.safetensors"):
        read_checkpoint(tmp_path).model_tensors()
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format_version": 99, "m3etl_version": "9.9"}))
    with pytest.raises(DamagedError, match="format version 99"):
        read_checkpoint(tmp_path)
    (path / "state.json").write_text("{")
    with pytest.raises(DamagedError, match="cannot read the checkpoint"):
        read_checkpoint(tmp_path)


def test_a_refusing_disk_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the checkpoint"):
        write(tmp_path / "file", 1)


def test_nothing_in_learn_unpickles():
    for path in learn.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"torch.load", "pickle.load", "pickle.loads", "load_from_checkpoint"}, path
