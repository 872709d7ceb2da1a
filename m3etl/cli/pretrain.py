"""`m3etl pretrain`: trains an MP-MAE."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("pretrain", context_settings={"ignore_unknown_options": True})
@click.argument("overrides", nargs=-1, metavar="[OVERRIDE]...")
@click.pass_obj
def command(settings: Settings, overrides: tuple[str, ...]) -> None:
    """Pretrain an MP-MAE on the campaign.

    OVERRIDE changes the configuration in Hydra's way, for example `model.size=atto data.batch_size=512`.
    """
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.learn.settings import compose_config
    from m3etl.stages.pretrain import run_pretrain

    compose_config(overrides)  # a wrong override is told before anything else runs
    progress = make_progress()
    campaign, summaries = prepare(
        settings, last="normalize", source=source_from_environment(), progress=progress, may_start=True
    )
    write_summaries(settings, [*summaries, run_pretrain(campaign, overrides=overrides, progress=progress)])
