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
from annotation_app.lineage import annotations_of, demonstrations_of, lineage
from annotation_app.models import (
    Checkpoint,
    Demonstration,
    DialogueRoot,
    Person,
    PromptSet,
    Release,
    Round,
    Run,
)
from annotation_app.models.promotion import Promotion
from annotation_app.models.refusals import CannotStart
from reward.preferences import read_json_lines
from reward.settings import parse
from rlhf_loop.config import STAGE_CONFIGS
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.trained import trained

pytestmark = pytest.mark.django_db


@pytest.fixture
def ready(settings, tmp_path):
    """Two promoted reward models, a released chat model, prompts; a round's settings to be set."""
    settings.STORAGE_ROOT = tmp_path / "storage"
    released_chat_model()
    for criterion in ("helpfulness", "safety"):
        Promotion.promote(trained(criterion))
    PromptSet.objects.create(name="set", storage_key="prompts/set.jsonl", sha256="", counts={})

    def set_up(**round_settings: object) -> None:
        stages = ["rejection", "ppo", "evaluate"]
        settings.RUN_SETTINGS = {"round": {"stages": stages, **round_settings}}

    set_up()
    return set_up


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


def test_it_works(ready, settings):
    settings.RUN_SETTINGS = {}
    round_, stages = play()
    assert list(stages) == ["temperature", "rejection", "ppo", "evaluate"]
    assert asked(stages["rejection"]).temperature == 1.1
    assert round_.state == Round.State.EVALUATED
    assert round_.result == stages["ppo"].checkpoint
    names = [stages[kind].checkpoint.name for kind in ("rejection", "ppo")]
    assert names == ["RLHF-V1 before PPO", "RLHF-V1"]


def test_a_round_that_the_gate_does_not_pass_ends_held(ready):
    gate = {"passes": False, "reasons": ["The combined score does not rise."], "unmeasured": []}
    round_, _ = play(evaluate={"gate": gate})
    assert round_.state == Round.State.HELD
    assert round_.evaluation["gate"] == gate


def test_a_round_has_the_stages_of_its_settings(ready):
    ready(stages=["temperature", "rejection", "dpo", "evaluate"], rejection={"samples": 7})
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


def test_what_several_processes_can_share_starts_behind_the_train_launcher(ready, settings):
    settings.CHILD_LAUNCHER = "srun python"
    settings.TRAIN_LAUNCHER = "torchrun --standalone --nproc-per-node 2"
    every = ["sft", "temperature", "rejection", "dpo", "ppo", "evaluate"]
    ready(stages=every, sft={"data": ["/data/answers.jsonl"]})
    _, stages = play(temperature={"temperature": 1.3})
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    shared = [torchrun, "--standalone", "--nproc-per-node", "2", "-m"]
    for kind in every[:-1]:
        assert exchange.command(stages[kind])[:6] == [*shared, f"rlhf_loop.{kind}"]
    words = exchange.command(stages["evaluate"])
    assert words[:4] == ["srun", "python", "-m", "rlhf_loop.evaluate"]


def test_rejection_sampling_tunes_the_model_before_any_feedback(ready):
    """Section 3.2.3: whatever round it is, answers come from the newest model and go into the
    first, or the last that demonstrations made."""
    first, stages = play()
    assert asked(stages["rejection"]).start == asked(stages["rejection"]).policy
    Release.objects.create(checkpoint=first.result)
    ready(stages=["sft", "rejection", "evaluate"], sft={"data": ["/data/answers.jsonl"]})
    second, later = play()
    assert later["sft"].input("policy") == first.result
    assert later["rejection"].input("start") == later["sft"].checkpoint
    Release.objects.create(checkpoint=second.result)
    ready(rejection={"samples": 3})
    third, last = play()
    assert last["rejection"].input("policy") == second.result != later["sft"].checkpoint
    assert last["rejection"].input("start") == later["sft"].checkpoint
    start = storage.path(later["sft"].checkpoint.storage_key)
    assert asked(last["rejection"]).start == start
    ready(rejection={"start": None})
    Release.objects.create(checkpoint=third.result)
    _, own = play()
    assert asked(own["rejection"]).start is None


def test_every_round_draws_with_random_numbers_of_its_own(ready):
    """By the same ones a model that has moved little gives the answers that the pool has already;
    all stages of a round share them, and settings may name a seed."""
    rounds_ = [play() for _ in range(2)]
    seeds = [{asked(run).seed for run in stages.values()} for _, stages in rounds_]
    assert seeds == [{round_.pk} for round_, _ in rounds_]
    ready(seed=7)
    assert asked(play()[1]["rejection"]).seed == 7


def test_dpo_reads_the_pairs_behind_the_reward_models(ready):
    ready(stages=["dpo", "evaluate"])
    _, stages = play()
    models = [Checkpoint.objects.promoted(c) for c in ("helpfulness", "safety")]
    keys = [model.run.input("snapshot").storage_key for model in models]
    assert list(asked(stages["dpo"]).pairs) == [storage.path(key) / "pairs.jsonl" for key in keys]


def test_the_answers_selected_in_all_earlier_rounds_compete(ready):
    files = []
    for _ in range(3):
        _, stages = play()
        assert list(asked(stages["rejection"]).earlier) == files
        files.append(exchange.run_folder(stages["rejection"]).path / "selected.jsonl")


def test_what_competes_does_not_change_while_a_round_runs(ready):
    """A stage that is started again reads what it read before."""
    first = failed().runs.get()
    second = rounds.start_round(None).runs.get()
    assert list(asked(second).earlier) == []
    rounds.cancel_round(second.round)
    rounds.retry_round(Round.objects.get(pk=first.round_id))
    finish(Run.objects.get(pk=first.pk), model="model")
    assert list(asked(second).earlier) == []


def test_the_pool_can_be_left_out(ready):
    play()
    ready(rejection={"earlier": []})
    _, stages = play()
    assert list(asked(stages["rejection"]).earlier) == []
    ready(rejection={"pool": False})
    _, stages = play()
    assert asked(stages["rejection"]).pool is False


# --- data that a round builds, and how long instructions last -------------------------------------

BUILDING = ["ghost_attention", "context_distillation", "rejection", "instruction_keeping",
            "evaluate"]  # fmt: skip


def test_rejection_sampling_learns_from_what_its_round_built(ready):
    ready(stages=BUILDING, rejection={"sft_data": ["own.jsonl"]})
    round_, stages = play()
    assert list(stages) == BUILDING
    files = [
        exchange.run_folder(stages[kind]).path / name
        for kind, name in (
            ("ghost_attention", "dialogues.jsonl"),
            ("context_distillation", "distilled.jsonl"),
        )
    ]
    assert [str(file) for file in asked(stages["rejection"]).sft_data] == [
        "own.jsonl", *map(str, files),
    ]  # fmt: skip
    assert [stages["rejection"].input(f"data_{n}") for n in (1, 2)] == [
        stages[kind] for kind in BUILDING[:2]
    ]
    assert {stages[kind].input("policy") for kind in BUILDING[:3]} == {round_.policy}
    assert round_.result == stages["rejection"].checkpoint
    assert not Checkpoint.objects.filter(run__kind__in=BUILDING[:2]).exists()


def test_builders_answer_with_what_fine_tuning_left(ready):
    ready(stages=["sft", *BUILDING], sft={"data": ["answers.jsonl"]})
    _, stages = play()
    assert {stages[kind].input("policy") for kind in BUILDING[:3]} == {stages["sft"].checkpoint}


def test_constraints_and_preprompts_are_the_shipped_ones_unless_named(ready):
    ready(stages=BUILDING)
    _, stages = play()
    found = [asked(stages[kind]) for kind in (*BUILDING[:2], "instruction_keeping")]
    assert [found[0].constraints, found[1].templates, found[2].constraints] == [None] * 3
    named = {"constraints": "/data/own.json"}
    ready(stages=BUILDING, ghost_attention={**named, "dialogues": 9}, instruction_keeping=named,
          context_distillation={"templates": "/data/preprompts.json"})  # fmt: skip
    _, stages = play()
    found = [asked(stages[kind]) for kind in (*BUILDING[:2], "instruction_keeping")]
    assert [str(found[0].constraints), found[0].dialogues, str(found[1].templates)] == [
        "/data/own.json", 9, "/data/preprompts.json",
    ]  # fmt: skip
    assert str(found[2].constraints) == "/data/own.json"


def test_how_long_instructions_last_is_measured_of_the_newest_model_and_the_first(ready):
    ready(stages=["rejection", "ppo", "instruction_keeping", "evaluate"])
    round_, stages = play()
    found = asked(stages["instruction_keeping"])
    folders = [storage.path(it.storage_key) for it in (stages["ppo"].checkpoint, round_.policy)]
    assert [found.policy, found.against] == folders
    assert round_.result == stages["ppo"].checkpoint


def test_what_a_round_built_is_behind_its_model(ready, as_alice):
    ready(stages=BUILDING)
    round_, stages = play()
    found = lineage(round_.result)
    made = {step.run: step.made for step in found.steps}
    assert list(made)[:3] == [stages[kind] for kind in reversed(BUILDING[:3])]
    assert [made[stages[kind]] for kind in BUILDING[:3]] == [None, None, round_.result]
    page = as_alice.get(reverse("lineage", args=[round_.result.pk])).content.decode()
    assert page.count("Made <strong>data to learn from</strong>") == 2
    for kind in BUILDING[:2]:
        assert f'<a href="#run-{stages[kind].pk}">{stages[kind]}</a>' in page
        assert f'<li id="run-{stages[kind].pk}"' in page
    page = as_alice.get(reverse("run", args=[stages["rejection"].pk])).content.decode()
    assert f'<a href="/runs/{stages["ghost_attention"].pk}">Ghost Attention #' in page


def test_a_builder_that_failed_goes_on_with_its_round(ready, as_alice):
    ready(stages=["ghost_attention", "rejection", "evaluate"])
    round_ = failed()
    run = round_.runs.get()
    as_alice.post(reverse("retry_run", args=[run.pk]))
    run.refresh_from_db()
    assert run.state == "queued"
    rejection = finish(run, dialogues=3)
    before = exchange.command(rejection)
    as_alice.post(reverse("cancel_run", args=[rejection.pk]))
    as_alice.post(reverse("retry_round", args=[round_.pk]))
    rejection.refresh_from_db()
    assert (rejection.kind, rejection.state) == ("rejection", "queued")
    assert exchange.command(rejection) == before
    assert asked(rejection).sft_data == (exchange.run_folder(run).path / "dialogues.jsonl",)


def test_the_page_shows_the_stages_of_the_round(ready, as_alice):
    ready(stages=["temperature", "rejection", "evaluate"])
    round_, _ = play(temperature={"temperature": 1.3})
    page = as_alice.get(reverse("round", args=[round_.pk])).content.decode()
    shown = [label for label in ("Temperature sweep", "Rejection sampling", "PPO", "Evaluation")
             if f"<h3>{label}</h3>" in page]  # fmt: skip
    assert shown == ["Temperature sweep", "Rejection sampling", "Evaluation"]


# --- ended early, and on again --------------------------------------------------------------------


def test_a_stage_that_failed_goes_on_with_its_round(ready, as_alice):
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


def test_a_stage_of_a_round_that_is_over_is_not_run_again(ready, as_alice):
    _, stages = play()
    Run.objects.filter(pk=stages["rejection"].pk).update(state="failed")
    page = as_alice.post(reverse("retry_run", args=[stages["rejection"].pk])).content.decode()
    assert "RLHF-V1 is at Evaluation by now; Rejection sampling #" in unescape(page)
    Run.objects.filter(pk=stages["evaluate"].pk).update(state="failed")
    page = as_alice.post(reverse("retry_run", args=[stages["evaluate"].pk])).content.decode()
    assert "RLHF-V1 is evaluated; only a failed round is resumed." in unescape(page)
    assert not Run.objects.active().exists()


def test_a_queued_stage_is_cancelled_with_its_round(ready, as_alice):
    round_ = rounds.start_round(None)
    as_alice.post(reverse("cancel_run", args=[round_.runs.get().pk]))
    tasks.advance_rounds()
    round_.refresh_from_db()
    assert (round_.state, round_.runs.get().state) == ("cancelled", "cancelled")


def test_going_on_looks_only_at_the_stage_that_ended_the_round(ready):
    round_, stages = play()
    Run.objects.filter(pk=stages["evaluate"].pk).update(state="cancelled")
    Run.objects.create(kind="rejection", state="failed", round=round_)
    Round.objects.filter(pk=round_.pk).update(state="cancelled")
    rounds.retry_round(round_)
    assert Run.objects.active().get() == stages["evaluate"]


def test_a_round_whose_last_stage_ended_unheard_is_finished_from_its_result(ready):
    round_, _ = play()
    gate = round_.evaluation["gate"]
    Round.objects.filter(pk=round_.pk).update(state="failed", evaluation={})
    round_.refresh_from_db()
    rounds.retry_round(round_)
    round_.refresh_from_db()
    assert (round_.state, round_.evaluation["gate"]) == ("evaluated", gate)


def test_one_whose_result_is_gone_says_so(ready):
    round_, stages = play()
    Round.objects.filter(pk=round_.pk).update(state="running", evaluation={})
    run = stages["evaluate"]
    exchange.run_folder(run).result_file.unlink()
    tasks.advance_rounds()
    round_.refresh_from_db()
    assert round_.state == "failed"
    assert round_.error == f"Evaluation #{run.pk}: its result is gone from runs/{run.pk}."


def test_a_round_waits_for_another_one_to_end(ready, as_alice):
    first = failed()
    second = rounds.start_round(None)
    page = as_alice.post(reverse("retry_round", args=[first.pk])).content.decode()
    assert "RLHF-V2 is running; RLHF-V1 can go on when that has ended." in unescape(page)
    rounds.cancel_round(second)
    rounds.retry_round(first)
    with pytest.raises(CannotStart, match="A round is running"):
        rounds.start_round(None)


def test_the_database_holds_one_active_round(ready):
    first = failed()
    rounds.start_round(None)
    with pytest.raises(IntegrityError), transaction.atomic():
        Round.objects.filter(pk=first.pk).update(state="queued")


@pytest.mark.django_db(transaction=True)
def test_of_clicks_at_once_one_starts_a_round(ready):
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


# --- demonstrations -------------------------------------------------------------------------------


def demonstrated(text: str, split: str = "train") -> Demonstration:
    """A demonstration that a reviewer has approved."""
    author, _ = Person.objects.get_or_create(username="author")
    reviewer, _ = Person.objects.get_or_create(username="reviewer")
    written = Demonstration.write(author, "helpfulness", f"Tell me: {text}", text)
    written.approve(reviewer)
    DialogueRoot.objects.filter(dialogues__prompts__demonstrations=written).update(split=split)
    return written


def learnt(files) -> list[str]:
    """The answers that a stage is given to learn from, file by file."""
    return [record["id"] for file in files for _, record in read_json_lines(file)]


def behind(checkpoint: Checkpoint) -> set[Demonstration]:
    return set(demonstrations_of([held for held, _ in lineage(checkpoint).demonstration_sets]))


def test_fine_tuning_learns_from_what_was_approved(ready):
    ready(stages=["sft", "rejection", "evaluate"])
    first, second = demonstrated("Two years."), demonstrated("Descale it.")
    demonstrated("Held out.", split="holdout")
    Demonstration.write(Person.objects.get(username="author"), "helpfulness", "Later?", "Waits.")
    round_ = rounds.start_round(None)
    run = round_.runs.get()
    demonstrated("Approved after the round began.")
    wanted = [f"demonstration-{row.pk}" for row in (first, second)]
    assert learnt(asked(run).data) == wanted
    assert asked(run).prompts == storage.path(round_.prompt_set.storage_key)
    assert run.input("demonstrations") == round_.demonstrations
    assert storage.file_sha256(asked(run).data[0]) == round_.demonstrations.sha256
    rejection = finish(run, model="model")
    assert learnt(asked(rejection).sft_data) == wanted
    assert rejection.input("demonstrations") == round_.demonstrations
    finish(rejection, model="model")
    last = Checkpoint.objects.get(run=rejection)
    assert behind(last) == {first, second}
    assert set(annotations_of(lineage(last).snapshots)) == set()


def test_so_does_rejection_sampling(ready):
    """Section 3.2.3: beside the selected answers, and beside the files that its settings name."""
    demonstrated("Held out.", split="holdout")
    round_, stages = play()  # there is none to learn from
    assert asked(stages["rejection"]).sft_data is None
    assert round_.demonstrations is None
    wanted = demonstrated("Two years.")
    _, stages = play()
    assert learnt(asked(stages["rejection"]).sft_data) == [f"demonstration-{wanted.pk}"]
    assert behind(stages["ppo"].checkpoint) == {wanted}
    ready(rejection={"sft_data": ["more.jsonl"]})
    _, stages = play()
    files = asked(stages["rejection"]).sft_data
    assert str(files[0]) == "more.jsonl"
    assert learnt(files[1:]) == [f"demonstration-{wanted.pk}"]
    assert behind(stages["ppo"].checkpoint) == {wanted}


@pytest.mark.parametrize(
    "without", [{"rejection": {"sft_data": None}}, {"stages": ["ppo", "evaluate"]}]
)
def test_no_demonstration_is_learnt_where_the_settings_say_so(ready, without):
    ready(**without)
    demonstrated("Two years.")
    round_, stages = play()
    assert round_.demonstrations is None
    assert behind(stages["ppo"].checkpoint) == set()
    if "rejection" in stages:
        assert asked(stages["rejection"]).sft_data is None


def test_files_that_the_settings_name_are_enough(ready):
    ready(stages=["sft", "evaluate"], sft={"data": ["own.jsonl"]})
    round_, stages = play()
    assert [str(file) for file in asked(stages["sft"]).data] == ["own.jsonl"]
    assert round_.demonstrations is None


def test_fine_tuning_on_nothing_is_a_sentence(ready, as_alice):
    ready(stages=["sft", "evaluate"])
    page = as_alice.post(reverse("start_round"), follow=True).content.decode()
    assert "Fine-tuning has nothing to learn from: approve demonstrations" in unescape(page)
    assert not Round.objects.exists()


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
    ready, as_alice, round_settings, sentence
):
    ready(**round_settings)
    page = as_alice.post(reverse("start_round"), follow=True).content.decode()
    assert "A round cannot have the settings of this installation: " in page
    assert sentence in unescape(page)
    assert not Round.objects.exists()
