"""Pretraining through Lightning's Trainer: it learns, resumes to the bit, reports, and leaves no noise behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fakes.learning import write_campaign

from m3etl.campaign import Campaign, open_campaign
from m3etl.errors import DamagedError, InputError, NothingSelectedError
from m3etl.learn.checkpoint import find_checkpoint, read_checkpoint
from m3etl.learn.training import JsonLinesLogger, full_rate, rate_share
from m3etl.stages.pretrain import run_pretrain
from m3etl.stages.summary import SilentProgress

small = (
    "run.pictures=0",
    "model.decoder_width=16",
    "data.crop_px=32",
    "data.batch_size=4",
    "data.threads=1",
    "trainer.cpu_threads=1",
    "trainer.log_every=2",
    "trainer.validate_every=100",
    "trainer.validate_chips=4",
)


training_script = """
import sys
from pathlib import Path
from m3etl.campaign import open_campaign
from m3etl.stages.pretrain import run_pretrain
from m3etl.stages.summary import SilentProgress
run_pretrain(open_campaign(Path(sys.argv[1])), overrides=sys.argv[2:], progress=SilentProgress())
"""


class Recorder(SilentProgress):
    """Keeps what was said and reported; raises at a step if asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.fields: list[dict] = []
        self.steps = 0
        self.stop_at = stop_at

    def advance(self, count: int = 1, **fields) -> None:
        self.steps += count
        if fields:
            self.fields.append(fields)
        if self.steps == self.stop_at:
            raise RuntimeError("stopped by the test")

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Campaign:
    return write_campaign(tmp_path_factory.mktemp("learning") / "campaign")


def pretrain(campaign: Campaign, *overrides: str, progress=None):
    return run_pretrain(campaign, overrides=(*small, *overrides), progress=progress or SilentProgress())


def digests(run: Path) -> dict[str, str]:
    checkpoint = find_checkpoint(run)
    assert checkpoint is not None
    return dict(checkpoint.state["sha256"])


def test_the_loss_of_every_array_falls_and_everything_is_written(campaign):
    progress = Recorder()
    summary = pretrain(
        campaign,
        "run.name=falls",
        "run.pictures=2",
        "trainer.max_steps=25",
        "optim.lr=2e-3",
        "loss.norm_pix=false",
        "model.decoder_width=128",
        "trainer.validate_chips=24",
        "data.batch_size=8",
        progress=progress,
    )
    before, after = summary.facts["loss_before"], summary.facts["loss_after"]
    assert set(before) == {"sentinel2_l2a", "sentinel2_l1c", "sentinel1_asc", "worldcover", "biome", "month"}
    for name in before:
        assert after[name] < before[name], name
    run = Path(summary.facts["run"])
    assert {path.stem for path in (run / "pictures").glob("*.png")} == {
        "sentinel2_l2a",
        "sentinel2_l1c",
        "sentinel1_asc",
        "worldcover",
    }
    assert all((run / "pictures" / f"{name}.png").stat().st_size > 5_000 for name in ("sentinel1_asc", "worldcover"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [*range(2, 26, 2), 25]
    assert all(line["images_per_second"] > 0 and 0 <= line["data_wait_fraction"] <= 1 for line in trained[1:])
    assert {"lr", "log_variance/biome", "train/month"} <= set(trained[-1])
    assert progress.steps == 25
    assert set(progress.fields[-1]) == {"loss", "images_per_second", "step"}
    assert (summary.done, summary.facts["steps"]) == (25, 25)
    assert set(summary.facts["val_loss_after"]) <= set(after)
    assert summary.facts["val_loss_after"]["biome"] < summary.facts["val_loss_before"]["biome"]
    assert {"measured/train/month", "measured/val/month"} <= {name for line in lines for name in line}
    assert not list(campaign.root.rglob("lightning_logs"))


def test_an_interrupted_run_ends_with_the_same_bits(campaign):
    options = ("trainer.max_steps=9", "trainer.checkpoint_every=4", "data.batch_size=5")
    straight = Path(pretrain(campaign, "run.name=straight", *options).facts["run"])
    with pytest.raises(RuntimeError, match="stopped by the test"):
        pretrain(campaign, "run.name=broken", *options, progress=Recorder(stop_at=7))
    broken = campaign.runs_path / "broken"
    halfway = find_checkpoint(broken)
    assert halfway is not None
    assert (halfway.step, halfway.state["finished"]) == (4, False)
    progress = Recorder()
    summary = pretrain(campaign, "run.name=broken", *options, progress=progress)
    assert summary.done == 5
    assert any("going on with" in text and "step 4 of 9" in text for text in progress.said)
    assert digests(broken) == digests(straight)
    assert set(digests(broken)) == {"model.safetensors", "optimizer.safetensors"}
    assert steps_logged(broken) == steps_logged(straight)


def test_ctrl_c_stays_ctrl_c(campaign):
    class Interrupting(SilentProgress):
        def advance(self, count: int = 1, **fields) -> None:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain(campaign, "run.name=interrupted", "trainer.max_steps=2", progress=Interrupting())
    assert signal.getsignal(signal.SIGINT) is before


def test_accumulated_steps_resume_exactly_too(campaign):
    options = ("trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.accumulate=2", "optim.clip_norm=0.5")
    straight = Path(pretrain(campaign, "run.name=sums", *options).facts["run"])
    with pytest.raises(RuntimeError):
        pretrain(campaign, "run.name=sums-broken", *options, progress=Recorder(stop_at=3))
    pretrain(campaign, "run.name=sums-broken", *options)
    assert digests(campaign.runs_path / "sums-broken") == digests(straight)
    assert read_checkpoint(straight).state["batches"] == 8


def steps_logged(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.slow
def test_kill_9_and_run_again_ends_with_the_same_bits(campaign, tmp_path):
    options = (*small, "trainer.max_steps=14", "trainer.checkpoint_every=4")
    script = tmp_path / "train.py"
    script.write_text(training_script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-W", "ignore", str(script), str(campaign.root), *options, "run.name=killed"]
    process = subprocess.Popen(command, env=environment)
    folder = campaign.runs_path / "killed" / "checkpoints"
    while not (folder / "latest").is_file() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed_at = read_checkpoint(folder).step
    assert 0 < killed_at < 14
    run_pretrain(campaign, overrides=(*options, "run.name=killed"), progress=SilentProgress())
    run_pretrain(campaign, overrides=(*options, "run.name=undisturbed"), progress=SilentProgress())
    assert digests(campaign.runs_path / "killed") == digests(campaign.runs_path / "undisturbed")
    assert not list(folder.glob(".step-*"))


def test_a_finished_run_is_not_trained_again(campaign):
    first = pretrain(campaign, "trainer.max_steps=2")
    progress = Recorder()
    second = pretrain(campaign, "trainer.max_steps=2", progress=progress)
    assert second.facts["run"] == first.facts["run"]
    assert (second.done, second.skipped, progress.steps) == (0, 2, 0)
    assert second.facts["loss_after"] == first.facts["loss_after"]
    assert any("nothing to train" in text for text in progress.said)
    other = pretrain(campaign, "trainer.max_steps=2", "run.seed=1")
    assert other.facts["run"] != first.facts["run"]


def test_a_named_run_with_other_options_is_refused(campaign):
    pretrain(campaign, "run.name=mine", "trainer.max_steps=1")
    with pytest.raises(InputError, match=r"optim\.lr was 0\.001, now 0\.1"):
        pretrain(campaign, "run.name=mine", "trainer.max_steps=1", "optim.lr=0.1")


def test_a_damaged_checkpoint_is_named(campaign):
    pretrain(campaign, "run.name=damaged", "trainer.max_steps=2", "trainer.checkpoint_every=1")
    path = read_checkpoint(campaign.runs_path / "damaged").path
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "finished": False}))
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.safetensors is not what was written"):
        pretrain(campaign, "run.name=damaged", "trainer.max_steps=2", "trainer.checkpoint_every=1")


def test_a_diverging_run_says_so(campaign):
    with pytest.raises(InputError, match="training has diverged"):
        pretrain(campaign, "optim.lr=1e18", "trainer.max_steps=8", "optim.warmup_fraction=0")


def test_a_handful_of_chips_without_validation_is_enough(tmp_path):
    campaign = write_campaign(tmp_path / "few", splits=("train",) * 4)
    progress = Recorder()
    summary = run_pretrain(
        campaign,
        overrides=("run.pictures=1", "model.decoder_width=16", "trainer.max_steps=3", "trainer.cpu_threads=1"),
        progress=progress,
    )
    assert summary.facts["loss_after"]
    assert summary.facts["val_loss_after"] == {}
    assert any("data.batch_size clipped from 16 to 4" in text for text in progress.said)
    assert any("no validation chip" in text for text in progress.said)
    assert [Path(path).stem for path in summary.facts["pictures"]] == ["sentinel1_asc", "sentinel2_l2a", "worldcover"]


def test_without_training_chips_or_statistics_nothing_is_selected(tmp_path):
    campaign = write_campaign(tmp_path / "none", splits=("val",) * 3)
    with pytest.raises(NothingSelectedError, match="no statistics"):
        pretrain(campaign)
    campaign.stats_path.write_text("{}")
    with pytest.raises(NothingSelectedError, match="split train"):
        pretrain(campaign)


def test_unknown_targets_and_options_are_refused_before_anything_is_read(campaign):
    with pytest.raises(InputError, match="not in the data set: moon"):
        pretrain(campaign, "data.arrays=[moon]")
    with pytest.raises(InputError, match=r"unknown option model\.sise"):
        pretrain(campaign, "model.sise=atto")
    with pytest.raises(InputError, match=r"data\.crop_px = 40 must be a multiple"):
        pretrain(campaign, "data.crop_px=40")


def test_two_trainings_of_one_run_are_kept_apart(campaign):
    run = campaign.runs_path / "locked"
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a+b'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"
    run.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)", str(run / ".lock")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with pytest.raises(InputError, match="another process trains"):
            pretrain(campaign, "run.name=locked", "trainer.max_steps=1")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_two_processes_train_one_model(campaign, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(training_script)
    options = (*small, "run.name=two", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=3")
    command = [sys.executable, "-W", "ignore", str(script), str(campaign.root), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    checkpoint = read_checkpoint(campaign.runs_path / "two")
    assert (checkpoint.step, checkpoint.state["finished"], checkpoint.state["batches"]) == (3, True, 3)
    assert checkpoint.state["loader"]["consumed"] == 24
    assert len(steps_logged(campaign.runs_path / "two")) == 2


def test_bf16_trains_as_well(campaign):
    summary = pretrain(campaign, "run.name=bf16", "trainer.max_steps=4", "trainer.precision=bf16-mixed")
    assert summary.facts["loss_after"]["biome"] < summary.facts["loss_before"]["biome"]
    tensors = read_checkpoint(campaign.runs_path / "bf16").model_tensors()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_rates_rise_and_fall():
    assert [rate_share(step, 10, 0.2) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert rate_share(6, 10, 0.2) == pytest.approx(0.5)
    assert 0 < rate_share(9, 10, 0.2) < 0.1
    assert rate_share(0, 4, 0.0) == 1.0
    from m3etl.learn.settings import OptimConfig

    assert full_rate(OptimConfig(), 4096) == pytest.approx(2.4e-3)
    assert full_rate(OptimConfig(lr=0.5), 4096) == 0.5


def test_the_metrics_of_lost_steps_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    logger = JsonLinesLogger(path)
    logger.keep_until(1)
    logger.log_metrics({"b": 2.5}, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1, "a": 1}, {"step": 2, "b": 2.5}]


def test_training_leaves_the_global_generator_alone(campaign):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(campaign, "run.name=generator", "trainer.max_steps=1")
    assert open_campaign(campaign.root).root == campaign.root
    assert torch.equal(torch.rand(3), expected)
