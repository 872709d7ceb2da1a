"""Training on a CUDA device: agreement with the CPU, bf16 and compile, zero gradients, resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.learning import normalised_batch, specs_of, without, write_campaign

from m3etl.learn.checkpoint import read_checkpoint
from m3etl.learn.encoder import build_encoder, initialise
from m3etl.learn.losses import UncertaintyWeights, array_losses
from m3etl.learn.masking import draw_visible, hidden_of
from m3etl.learn.mpmae import MaskedAutoencoder, ModelConfig, choose_targets
from m3etl.stages.evaluate import run_evaluate
from m3etl.stages.pretrain import run_pretrain
from m3etl.stages.summary import SilentProgress

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]


def masks(batch: int, patches: int) -> tuple[torch.Tensor, torch.Tensor]:
    visible = draw_visible(list(range(batch)), patches=patches, ratio=0.6, seed=0, step=0)
    return torch.from_numpy(visible), torch.from_numpy(hidden_of(visible, patches))


def test_the_encoder_agrees_with_the_cpu():
    encoder = build_encoder("atto", bands=12, patch_px=8, levels=2).double()
    initialise(encoder, torch.Generator().manual_seed(0))
    image = torch.randn(4, 12, 56, 56, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    visible, _ = masks(4, 49)
    expected = encoder.forward_visible(image, visible)
    found = encoder.cuda().forward_visible(image.cuda(), visible.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-9)


def test_a_missing_modality_gives_exactly_zero_gradient_in_bf16():
    specs = specs_of()
    missing = next(spec for spec in specs if spec.name == "sentinel1_asc")
    model = MaskedAutoencoder(specs, choose_targets(specs), ModelConfig(decoder_width=64)).cuda()
    weights = UncertaintyWeights([spec.name for spec in model.targets]).cuda()
    batch = {name: value.cuda() for name, value in without(normalised_batch(specs, batch=4, px=64), missing).items()}
    visible, hidden = (part.cuda() for part in masks(4, 16))
    with torch.autocast("cuda", torch.bfloat16):
        losses = array_losses(model.targets, model(batch, visible, hidden), batch, hidden, patch_px=16)
        weights(losses).backward()
    for parameter in model.heads["sentinel1_asc"].parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert torch.isfinite(model.encoder.stem.weight.grad).all()


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_pretraining_learns_resumes_and_evaluates(tmp_path, compiled):
    campaign = write_campaign(tmp_path / "campaign")
    options = [
        "preset=quick",
        "run.name=gpu",
        "run.pictures=2",
        "data.crop_px=32",
        "trainer.max_steps=40",
        "trainer.checkpoint_every=10",
        f"trainer.compile={compiled}",
        "loss.norm_pix=false",
        "data.leave_out=[biome]",
    ]

    class Stop(SilentProgress):
        steps = 0

        def advance(self, count: int = 1, **fields) -> None:
            self.steps += count
            if self.steps == 25:
                raise RuntimeError("stopped by the test")

    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_pretrain(campaign, overrides=options, progress=Stop())
    summary = run_pretrain(campaign, overrides=options, progress=SilentProgress())
    assert summary.done == 20
    checkpoint = read_checkpoint(Path(summary.facts["run"]))
    assert checkpoint.state["finished"]
    for name, before in summary.facts["loss_before"].items():
        assert summary.facts["loss_after"][name] < before, name
    probed = run_evaluate(campaign, checkpoint=checkpoint.path, progress=SilentProgress())
    assert {row["label"] for row in probed.facts["probes"]} == {"biome"}
