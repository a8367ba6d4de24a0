"""Which stages a round has, what each is given, and what becomes of what it leaves."""

from __future__ import annotations

import sys
import threading
from html import unescape
from pathlib import Path

import pytest
from django.db import IntegrityError, connection, transaction
from django.urls import reverse

from annotation_app import exchange, storage, tasks
from annotation_app.lifecycle import rounds, runs
from annotation_app.models import (
    Checkpoint,
    Release,
    Round,
    Run,
)
from annotation_app.models.refusals import CannotStart
from annotation_app.supervise import child_environment
from tests.annotation_app.staged import asked, failed, finish, play

pytestmark = pytest.mark.django_db


def test_it_works(round_can_start, settings):
    settings.RUN_SETTINGS = {}
    round_, stages = play()
    assert list(stages) == ["temperature", "rejection", "ppo", "evaluate"]
    assert asked(stages["rejection"]).temperature == 1.1
    assert round_.state == Round.State.EVALUATED
    assert round_.result == stages["ppo"].checkpoint
    names = [stages[kind].checkpoint.name for kind in ("rejection", "ppo")]
    assert names == ["RLHF-V1 before PPO", "RLHF-V1"]


def test_a_round_that_the_gate_does_not_pass_ends_held(round_can_start):
    gate = {"passes": False, "reasons": ["The combined score does not rise."], "unmeasured": []}
    round_, _ = play(evaluate={"gate": gate})
    assert round_.state == Round.State.HELD
    assert round_.evaluation["gate"] == gate


def test_a_stage_asks_only_its_own_configured_address_and_gives_it_the_key(
    round_can_start, settings
):
    settings.SAMPLER_API_KEY = "key"
    ppo = {"address": "http://engine", "hand_over": "reload.sh {folder}"}
    round_can_start(stages=["rejection", "ppo", "evaluate"], ppo=ppo)
    _, stages = play()
    assert asked(stages["ppo"]).address == "http://engine"
    assert child_environment(stages["ppo"])["SAMPLER_API_KEY"] == "key"
    assert "SAMPLER_API_KEY" not in child_environment(stages["rejection"])
    settings.RUN_SETTINGS = {"round": {"rejection": ppo}}
    with pytest.raises(ValueError, match="http://engine was to draw the answers, but the settings"):
        exchange.command(stages["ppo"])


def test_a_round_has_the_stages_of_its_settings(round_can_start):
    round_can_start(
        stages=["temperature", "rejection", "dpo", "evaluate"], rejection={"samples": 7}
    )
    round_, stages = play(temperature={"temperature": 1.3})
    assert list(stages) == ["temperature", "rejection", "dpo", "evaluate"]
    assert (asked(stages["temperature"]).samples, asked(stages["rejection"]).temperature) == (
        7,
        1.3,
    )
    assert stages["rejection"].input("policy") == round_.policy
    assert stages["dpo"].input("policy") == stages["rejection"].checkpoint
    assert round_.result == stages["dpo"].checkpoint
    names = [stages[kind].checkpoint.name for kind in ("rejection", "dpo")]
    assert names == ["RLHF-V1 before DPO", "RLHF-V1"]
    assert not Checkpoint.objects.filter(run=stages["temperature"]).exists()


def test_what_several_processes_can_share_starts_behind_the_train_launcher(
    round_can_start, settings
):
    settings.CHILD_LAUNCHER = "srun python"
    settings.TRAIN_LAUNCHER = "torchrun --standalone --nproc-per-node 2"
    every = ["sft", "temperature", "rejection", "dpo", "ppo", "evaluate"]
    round_can_start(stages=every, sft={"data": ["/data/answers.jsonl"]})
    _, stages = play(temperature={"temperature": 1.3})
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    shared = [torchrun, "--standalone", "--nproc-per-node", "2", "-m"]
    for kind in every[:-1]:
        assert exchange.command(stages[kind])[:6] == [*shared, f"rlhf_loop.{kind}"]
    words = exchange.command(stages["evaluate"])
    assert words[:4] == ["srun", "python", "-m", "rlhf_loop.evaluate"]


def test_rejection_sampling_tunes_the_model_before_any_feedback(round_can_start):
    """Section 3.2.3: whatever round it is, answers come from the newest model and go into the
    first, or the last that demonstrations made."""
    first, stages = play()
    assert asked(stages["rejection"]).start == asked(stages["rejection"]).policy
    Release.objects.create(checkpoint=first.result)
    round_can_start(stages=["sft", "rejection", "evaluate"], sft={"data": ["/data/answers.jsonl"]})
    second, later = play()
    assert later["sft"].input("policy") == first.result
    assert later["rejection"].input("start") == later["sft"].checkpoint
    Release.objects.create(checkpoint=second.result)
    round_can_start(rejection={"samples": 3})
    third, last = play()
    assert last["rejection"].input("policy") == second.result != later["sft"].checkpoint
    assert last["rejection"].input("start") == later["sft"].checkpoint
    start = storage.path(later["sft"].checkpoint.storage_key)
    assert asked(last["rejection"]).start == start
    round_can_start(rejection={"start": None})
    Release.objects.create(checkpoint=third.result)
    _, own = play()
    assert asked(own["rejection"]).start is None


def test_every_round_draws_with_random_numbers_of_its_own(round_can_start):
    """By the same ones a model that has moved little gives the answers that the pool has already;
    all stages of a round share them, and settings may name a seed."""
    rounds_ = [play() for _ in range(2)]
    seeds = [{asked(run).seed for run in stages.values()} for _, stages in rounds_]
    assert seeds == [{round_.pk} for round_, _ in rounds_]
    round_can_start(seed=7)
    assert asked(play()[1]["rejection"]).seed == 7


def test_dpo_reads_the_pairs_behind_the_reward_models(round_can_start):
    round_can_start(stages=["dpo", "evaluate"])
    _, stages = play()
    models = [Checkpoint.objects.promoted(c) for c in ("helpfulness", "safety")]
    keys = [model.run.input("snapshot").storage_key for model in models]
    assert list(asked(stages["dpo"]).pairs) == [storage.path(key) / "pairs.jsonl" for key in keys]


def test_the_answers_selected_in_all_earlier_rounds_compete(round_can_start):
    files = []
    for _ in range(3):
        _, stages = play()
        assert list(asked(stages["rejection"]).earlier) == files
        files.append(exchange.run_folder(stages["rejection"]).path / "selected.jsonl")


def test_what_competes_does_not_change_while_a_round_runs(round_can_start):
    """A stage that is started again reads what it read before."""
    first = failed().runs.get()
    second = rounds.start_round(None).runs.get()
    assert list(asked(second).earlier) == []
    rounds.cancel_round(second.round)
    rounds.retry_round(Round.objects.get(pk=first.round_id))
    finish(Run.objects.get(pk=first.pk), model="model")
    assert list(asked(second).earlier) == []


def test_the_pool_can_be_left_out(round_can_start):
    play()
    round_can_start(rejection={"earlier": []})
    _, stages = play()
    assert list(asked(stages["rejection"]).earlier) == []
    round_can_start(rejection={"pool": False})
    _, stages = play()
    assert asked(stages["rejection"]).pool is False


# --- ended early, and on again --------------------------------------------------------------------


def test_a_stage_that_failed_goes_on_with_its_round(round_can_start, as_alice):
    round_ = failed()
    run = round_.runs.get()
    as_alice.post(reverse("retry_run", args=[run.pk]))
    round_.refresh_from_db()
    run.refresh_from_db()
    assert (round_.state, run.state) == ("running", "queued")
    run = finish(run, model="model")
    run = finish(run, model="model")
    finish(run, gate={"passes": True, "reasons": [], "unmeasured": []})
    round_.refresh_from_db()
    assert (round_.state, round_.evaluation["gate"]["passes"]) == ("evaluated", True)


def test_a_failure_that_no_database_stores_as_it_is_ends_the_round_too(round_can_start):
    run = rounds.start_round(None).runs.get()
    run.claim()
    runs.run_failed(run, "half \ud83d of it, and \x00")
    round_ = Round.objects.get()
    assert (round_.state, run.state) == ("failed", "failed")
    assert round_.error == f"{run}: half \ufffd of it, and \ufffd"


def test_a_stage_of_a_round_that_is_over_is_not_run_again(round_can_start, as_alice):
    _, stages = play()
    Run.objects.filter(pk=stages["rejection"].pk).update(state="failed")
    page = as_alice.post(reverse("retry_run", args=[stages["rejection"].pk])).content.decode()
    assert "RLHF-V1 is at Evaluation by now; Rejection sampling #" in unescape(page)
    Run.objects.filter(pk=stages["evaluate"].pk).update(state="failed")
    page = as_alice.post(reverse("retry_run", args=[stages["evaluate"].pk])).content.decode()
    assert "RLHF-V1 is evaluated; only a failed round is resumed." in unescape(page)
    assert not Run.objects.active().exists()


def test_a_queued_stage_is_cancelled_with_its_round(round_can_start, as_alice):
    round_ = rounds.start_round(None)
    as_alice.post(reverse("cancel_run", args=[round_.runs.get().pk]))
    tasks.advance_rounds()
    round_.refresh_from_db()
    assert (round_.state, round_.runs.get().state) == ("cancelled", "cancelled")


def test_a_stage_that_ends_while_a_round_is_looked_at_is_not_run_again(round_can_start):
    """PPO's worker says that it is done after the first look at the round's runs."""
    round_can_start(stages=["rejection", "ppo", "evaluate"])
    round_ = rounds.start_round(None)
    ppo = finish(round_.runs.get(), model="model")
    looks = []

    def ends_after_the_first_look(execute, sql, params, many, context):
        if sql.startswith("SELECT") and 'FROM "annotation_app_run"' in sql:
            looks.append(sql)
            if len(looks) == 2:
                Run.objects.filter(pk=ppo.pk).update(state=Run.State.SUCCEEDED)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(ends_after_the_first_look):
        assert rounds.advance(Round.objects.get(pk=round_.pk)) is None
    assert looks
    assert round_.runs.filter(kind="ppo").count() == 1


def damaged() -> Round:
    """A running round that is over but for its figures, which cannot be read."""
    round_, stages = play()
    exchange.run_folder(stages["evaluate"]).result_file.write_text('{"gate": ')
    Round.objects.filter(pk=round_.pk).update(state="running", evaluation={})
    round_.refresh_from_db()
    return round_


def test_a_round_without_a_stage_at_work_is_cancelled_at_once(round_can_start, as_alice):
    round_ = damaged()
    as_alice.post(reverse("cancel_round", args=[round_.pk]))
    round_.refresh_from_db()
    assert round_.state == "cancelled"
    assert rounds.start_round(None).state == "running"
    page = as_alice.post(reverse("cancel_round", args=[round_.pk])).content.decode()
    assert "RLHF-V1 is cancelled; only a running round is cancelled." in unescape(page)


def test_a_round_that_cannot_go_on_fails_and_says_why(round_can_start, as_alice):
    round_ = damaged()
    tasks.advance_rounds()
    round_.refresh_from_db()
    assert round_.state == "failed"
    assert round_.error.startswith("RLHF-V1 cannot go on after Evaluation: ")
    as_alice.post(reverse("retry_round", args=[round_.pk]))  # and is damaged still
    round_.refresh_from_db()
    assert round_.state == "failed"


def test_going_on_looks_only_at_the_stage_that_ended_the_round(round_can_start):
    round_, stages = play()
    Run.objects.filter(pk=stages["evaluate"].pk).update(state="cancelled")
    Run.objects.create(kind="rejection", state="failed", round=round_)
    Round.objects.filter(pk=round_.pk).update(state="cancelled")
    rounds.retry_round(round_)
    assert Run.objects.active().get() == stages["evaluate"]


def test_a_round_whose_last_stage_ended_unheard_is_finished_from_its_result(round_can_start):
    round_, _ = play()
    gate = round_.evaluation["gate"]
    Round.objects.filter(pk=round_.pk).update(state="failed", evaluation={})
    round_.refresh_from_db()
    rounds.retry_round(round_)
    round_.refresh_from_db()
    assert (round_.state, round_.evaluation["gate"]) == ("evaluated", gate)


def test_one_whose_result_is_gone_says_so(round_can_start):
    round_, stages = play()
    Round.objects.filter(pk=round_.pk).update(state="running", evaluation={})
    run = stages["evaluate"]
    exchange.run_folder(run).result_file.unlink()
    tasks.advance_rounds()
    round_.refresh_from_db()
    assert round_.state == "failed"
    assert round_.error == f"Evaluation #{run.pk}: its result is gone from runs/{run.pk}."


def test_a_round_waits_for_another_one_to_end(round_can_start, as_alice):
    first = failed()
    second = rounds.start_round(None)
    page = as_alice.post(reverse("retry_round", args=[first.pk])).content.decode()
    assert "RLHF-V2 is running; RLHF-V1 can go on when that has ended." in unescape(page)
    rounds.cancel_round(second)
    rounds.retry_round(first)
    with pytest.raises(CannotStart, match="A round is running"):
        rounds.start_round(None)


def test_the_database_holds_one_active_round(round_can_start):
    first = failed()
    rounds.start_round(None)
    with pytest.raises(IntegrityError), transaction.atomic():
        Round.objects.filter(pk=first.pk).update(state="queued")


@pytest.mark.django_db(transaction=True)
def test_of_clicks_at_once_one_starts_a_round(round_can_start):
    said: list[str] = []
    together = threading.Barrier(4)

    def click() -> None:
        together.wait()
        try:
            said.append(str(rounds.start_round(None)))
        except CannotStart as error:
            said.append(str(error))
        finally:
            connection.close()

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for it in clicks:
        it.start()
    for it in clicks:
        it.join(60)
    assert sorted(said) == ["A round is running."] * 3 + ["RLHF-V1"]
    assert Run.objects.active().filter(kind="rejection").count() == 1


@pytest.mark.parametrize(
    ("round_settings", "sentence"),
    [
        ({"stages": ["ppo", "rejection", "evaluate"]}, "stages is ppo rejection evaluate, allowed"),
        ({"rejection": {"sample": 3}}, "unknown setting 'sample'"),
        ({"stages": ["ghost_attention", "ppo", "evaluate"]},
         "stages has ghost_attention without rejection, which alone learns from what it builds."),
        ({"stages": ["instruction_keeping", "evaluate"]}, "which trains nothing"),
        ({"stages": 5}, "stages is 5, allowed are some of"),
    ],
)  # fmt: skip
def test_a_round_with_settings_that_make_no_sense_does_not_start(
    round_can_start, as_alice, round_settings, sentence
):
    round_can_start(**round_settings)
    page = as_alice.post(reverse("start_round"), follow=True).content.decode()
    assert "A round cannot have the settings of this installation: " in page
    assert sentence in unescape(page)
    assert not Round.objects.exists()
