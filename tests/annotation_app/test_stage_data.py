"""What a round's stages learn from beside comparisons: what it built itself, and demonstrations."""

from __future__ import annotations

from html import unescape

import pytest
from django.urls import reverse

from annotation_app import exchange, storage
from annotation_app.lifecycle import rounds
from annotation_app.lineage import annotations_of, demonstrations_of, lineage
from annotation_app.models import (
    Checkpoint,
    Demonstration,
    DialogueRoot,
    Person,
    Round,
)
from reward.preferences import read_json_lines
from tests.annotation_app.staged import asked, failed, finish, play

pytestmark = pytest.mark.django_db


BUILDING = ["ghost_attention", "context_distillation", "rejection", "instruction_keeping",
            "evaluate"]  # fmt: skip


def test_rejection_sampling_learns_from_what_its_round_built(round_can_start):
    round_can_start(stages=BUILDING, rejection={"sft_data": ["own.jsonl"]})
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


def test_builders_answer_with_what_fine_tuning_left(round_can_start):
    round_can_start(stages=["sft", *BUILDING], sft={"data": ["answers.jsonl"]})
    _, stages = play()
    assert {stages[kind].input("policy") for kind in BUILDING[:3]} == {stages["sft"].checkpoint}


def test_constraints_and_preprompts_are_the_shipped_ones_unless_named(round_can_start):
    round_can_start(stages=BUILDING)
    _, stages = play()
    found = [asked(stages[kind]) for kind in (*BUILDING[:2], "instruction_keeping")]
    assert [found[0].constraints, found[1].templates, found[2].constraints] == [None] * 3
    named = {"constraints": "/data/own.json"}
    round_can_start(
        stages=BUILDING,
        ghost_attention={**named, "dialogues": 9},
        instruction_keeping=named,
        context_distillation={"templates": "/data/preprompts.json"},
    )
    _, stages = play()
    found = [asked(stages[kind]) for kind in (*BUILDING[:2], "instruction_keeping")]
    assert [str(found[0].constraints), found[0].dialogues, str(found[1].templates)] == [
        "/data/own.json", 9, "/data/preprompts.json",
    ]  # fmt: skip
    assert str(found[2].constraints) == "/data/own.json"


def test_how_long_instructions_last_is_measured_of_the_newest_model_and_the_first(round_can_start):
    round_can_start(stages=["rejection", "ppo", "instruction_keeping", "evaluate"])
    round_, stages = play()
    found = asked(stages["instruction_keeping"])
    folders = [storage.path(it.storage_key) for it in (stages["ppo"].checkpoint, round_.policy)]
    assert [found.policy, found.against] == folders
    assert round_.result == stages["ppo"].checkpoint


def test_what_a_round_built_is_behind_its_model(round_can_start, as_alice):
    round_can_start(stages=BUILDING)
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


def test_a_builder_that_failed_goes_on_with_its_round(round_can_start, as_alice):
    round_can_start(stages=["ghost_attention", "rejection", "evaluate"])
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


def test_the_page_shows_the_stages_of_the_round(round_can_start, as_alice):
    round_can_start(stages=["temperature", "rejection", "evaluate"])
    round_, _ = play(temperature={"temperature": 1.3})
    page = as_alice.get(reverse("round", args=[round_.pk])).content.decode()
    shown = [label for label in ("Temperature sweep", "Rejection sampling", "PPO", "Evaluation")
             if f"<h3>{label}</h3>" in page]  # fmt: skip
    assert shown == ["Temperature sweep", "Rejection sampling", "Evaluation"]


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


def test_fine_tuning_learns_from_what_was_approved(round_can_start):
    round_can_start(stages=["sft", "rejection", "evaluate"])
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


def test_so_does_rejection_sampling(round_can_start):
    """Section 3.2.3: beside the selected answers, and beside the files that its settings name."""
    demonstrated("Held out.", split="holdout")
    round_, stages = play()  # there is none to learn from
    assert asked(stages["rejection"]).sft_data is None
    assert round_.demonstrations is None
    wanted = demonstrated("Two years.")
    _, stages = play()
    assert learnt(asked(stages["rejection"]).sft_data) == [f"demonstration-{wanted.pk}"]
    assert behind(stages["ppo"].checkpoint) == {wanted}
    round_can_start(rejection={"sft_data": ["more.jsonl"]})
    _, stages = play()
    files = asked(stages["rejection"]).sft_data
    assert str(files[0]) == "more.jsonl"
    assert learnt(files[1:]) == [f"demonstration-{wanted.pk}"]
    assert behind(stages["ppo"].checkpoint) == {wanted}


@pytest.mark.parametrize(
    "without", [{"rejection": {"sft_data": None}}, {"stages": ["ppo", "evaluate"]}]
)
def test_no_demonstration_is_learnt_where_the_settings_say_so(round_can_start, without):
    round_can_start(**without)
    demonstrated("Two years.")
    round_, stages = play()
    assert round_.demonstrations is None
    assert behind(stages["ppo"].checkpoint) == set()
    if "rejection" in stages:
        assert asked(stages["rejection"]).sft_data is None


def test_files_that_the_settings_name_are_enough(round_can_start):
    round_can_start(stages=["sft", "evaluate"], sft={"data": ["own.jsonl"]})
    round_, stages = play()
    assert [str(file) for file in asked(stages["sft"]).data] == ["own.jsonl"]
    assert round_.demonstrations is None


def test_fine_tuning_on_nothing_is_a_sentence(round_can_start, as_alice):
    round_can_start(stages=["sft", "evaluate"])
    page = as_alice.post(reverse("start_round"), follow=True).content.decode()
    assert "Fine-tuning has nothing to learn from: approve demonstrations" in unescape(page)
    assert not Round.objects.exists()
