"""Rounds whose stages end as a test wants, without anything being run."""

from __future__ import annotations

from annotation_app import exchange
from annotation_app.lifecycle import rounds, runs
from annotation_app.models import Round, Run
from reward.settings import parse
from rlhf_loop.config import STAGE_CONFIGS


def asked(run: Run) -> object:
    """The settings that a stage's command stands for."""
    return parse(STAGE_CONFIGS[run.kind], "test", exchange.command(run)[3:])


def finish(run: Run, **result: object) -> Run | None:
    """The stage ends with this result; returns the next one's run."""
    run.claim()
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True, exist_ok=True)
    if "model" in result:
        (folder.path / "model").mkdir()
    folder.write_result(result)
    assert runs.run_succeeded(run, result)
    assert run.round is not None
    return rounds.advance(Round.objects.get(pk=run.round.pk))


def failed() -> Round:
    """A round whose first stage has failed."""
    run = rounds.start_round(None).runs.get()
    run.claim()
    runs.run_failed(run, "No space.")
    return Round.objects.get(pk=run.round_id)


def play(**results: dict[str, object]) -> tuple[Round, dict[str, Run]]:
    """A round whose stages end one after the other, training ones with a model."""
    round_ = rounds.start_round(None)
    stages, run = {}, round_.runs.get()
    while run is not None:
        stages[run.kind] = run
        left = {"model": "model"} if run.kind in ("sft", "rejection", "dpo", "ppo") else {}
        if run.kind == "temperature":
            left = {"temperature": 1.1}
        if run.kind == "evaluate":
            left = {"gate": {"passes": True, "reasons": [], "unmeasured": []}}
        run = finish(run, **(left | results.get(run.kind, {})))
    round_.refresh_from_db()
    return round_, stages
