"""What a round of the platform measures: an independent reward model, prompts, a judge, tasks."""

from __future__ import annotations

import runpy

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from annotation_app import exchange, storage
from annotation_app.lifecycle import rounds, runs, training
from annotation_app.models import Annotation, Checkpoint, PromptSet, Round, Run
from annotation_app.models.refusals import CannotStart
from annotation_app.supervise import child_environment
from reward.preferences import read_pairs
from reward.settings import parse
from rlhf_loop.config import EvaluateConfig, InstructionKeepingConfig, RejectionConfig
from tests.annotation_app.ended import ended, prompt_set
from tests.annotation_app.imports.files import HH_RLHF, import_file
from tests.annotation_app.imports.test_import_prompts import XSTEST, import_prompts
from tests.annotation_app.rows import open_batch, released_chat_model
from tests.annotation_app.staged import finish
from tests.annotation_app.trained import trained

pytestmark = pytest.mark.django_db
JUDGE = "https://judge.example/v1"


@pytest.fixture(autouse=True)
def plain_settings(settings, tmp_path):
    settings.STORAGE_ROOT, settings.RUN_SETTINGS = tmp_path / "storage", None
    settings.HOLDOUT_SHARE = 0.0


def imported() -> None:
    import_file(HH_RLHF, "hh-rlhf", "helpfulness", "Anthropic")


def collected(bob) -> None:
    Annotation.objects.lease_next(bob, open_batch()).record(choice="a", strength="better")


def finished(run: Run) -> Checkpoint:
    run.claim()
    (exchange.run_folder(run).path / "model").mkdir(parents=True)
    runs.run_succeeded(run, {"model": "model"})
    return Run.objects.get(pk=run.pk).checkpoint


def evaluating(**config) -> Run:
    """A round's evaluation, as it is queued after its other stages."""
    config = {**exchange.round_settings(), "stages": ["rejection", "evaluate"], **config}
    round_ = ended("running", stage="rejection", result=None, config=config)
    rejection = Run.queue(
        "rejection", config, {"policy": round_.policy, "prompts": round_.prompt_set}, round=round_
    )
    finished(rejection)
    run = rounds.advance(Round.objects.get(pk=round_.pk))
    assert run is not None
    return run


def asked(run: Run) -> EvaluateConfig:
    return parse(EvaluateConfig, "test", exchange.command(run)[3:])


# --- the independent reward model -----------------------------------------------------------------


def test_it_works(bob, alice):
    released_chat_model()
    imported()
    collected(bob)
    run = training.queue_independent_training("helpfulness", by=alice)
    snapshot = run.input("snapshot")
    pairs = list(read_pairs(storage.path(snapshot.storage_key) / "pairs.jsonl"))
    assert {pair.source for pair in pairs} == {"hh-rlhf"}
    assert (snapshot.counts["collected"], run.asked_by) == (0, alice)
    assert snapshot.counts["imported"] == len(pairs) > 500
    model = finished(run)
    assert list(Checkpoint.objects.independent()) == [model]
    found = evaluating()
    assert found.input("independent") == model
    assert asked(found).independent == storage.path(model.storage_key)


def test_whatever_read_a_collected_comparison_is_not_independent(bob):
    released_chat_model()
    imported()
    collected(bob)
    run = training.queue_reward_training("helpfulness")
    counts = run.input("snapshot").counts
    assert counts["collected"] == 1
    assert counts["imported"] > 500
    finished(run)
    assert not Checkpoint.objects.independent().exists()
    assert asked(evaluating()).independent is None


def test_nor_is_what_began_as_a_model_that_learnt_here(bob):
    """Its snapshot is imported only, but its start is a round's."""
    starter = released_chat_model().checkpoint
    imported()
    learnt = finished(evaluating_rejection())
    run = training.queue_reward_training("helpfulness", start=learnt)
    assert run.input("snapshot").counts["collected"] == 0
    finished(run)
    assert not Checkpoint.objects.independent().exists()
    own = training.queue_independent_training("helpfulness")
    assert own.input("start") == starter
    assert list(Checkpoint.objects.independent()) == []
    model = finished(own)
    assert list(Checkpoint.objects.independent()) == [model]


def evaluating_rejection() -> Run:
    round_ = ended("running", result=None, config={"stages": ["rejection", "evaluate"]})
    inputs = {"policy": round_.policy, "prompts": round_.prompt_set}
    return Run.queue("rejection", round_.config, inputs, round=round_)


def test_a_reward_model_from_before_this_was_counted_is_not_taken_for_one():
    trained()
    assert not Checkpoint.objects.independent().exists()


def test_a_rounds_own_reward_model_is_not_independent_of_it(bob):
    released_chat_model()
    imported()
    model = finished(training.queue_independent_training("helpfulness"))
    round_ = ended(helpfulness=model)
    assert "independent" not in rounds.measured_by(round_)
    assert rounds.measured_by(ended())["independent"] == model


def test_nothing_imported_is_a_sentence(bob):
    released_chat_model()
    collected(bob)
    with pytest.raises(CannotStart, match="There is no imported helpfulness comparison with a"):
        training.queue_independent_training("helpfulness")


def test_no_chat_model_from_outside_is_a_sentence():
    with pytest.raises(CannotStart, match="No chat model was brought in"):
        training.queue_independent_training("helpfulness")


# --- prompts --------------------------------------------------------------------------------------


def test_prompts_to_measure_on_are_asked_in_every_evaluation():
    assert "further_prompts" not in rounds.measured_by(ended())
    measured = import_prompts(XSTEST, measure=True)
    assert (measured.is_for_measuring, measured.is_for_rounds) == (True, False)
    import_prompts(XSTEST, name="Not these")
    run = evaluating()
    assert list(asked(run).further_prompts) == [storage.path(measured.storage_key)]
    assert run.input("further_001") == measured


def test_what_is_measured_on_is_never_learnt_from(round_can_start):
    """It is settled when a round starts: neither what is imported later is asked, nor is what is
    withdrawn meanwhile learnt from by a stage that is started again."""
    own = storage.path("prompts/set.jsonl")
    own.parent.mkdir(parents=True, exist_ok=True)
    own.touch()
    measured = import_prompts(XSTEST, measure=True)
    PromptSet.objects.filter(name="set").update(is_for_measuring=True)
    round_can_start(stages=["rejection", "evaluate"])
    round_ = rounds.start_round(None)
    PromptSet.objects.filter(name="set").update(is_for_measuring=False)
    import_prompts(XSTEST, name="Later", measure=True)
    PromptSet.objects.update(is_for_measuring=False)
    found = parse(RejectionConfig, "test", exchange.command(round_.runs.get())[3:])
    assert found.held_out == (storage.path(measured.storage_key),)
    evaluation = finish(round_.runs.get(), model="model")
    assert asked(evaluation).further_prompts == (storage.path(measured.storage_key),)


def test_a_rounds_own_prompts_are_not_asked_twice():
    own = prompt_set("Own")
    PromptSet.objects.update(is_for_measuring=True)
    assert "further_001" not in rounds.measured_by(ended(prompt_set=own))


# --- judge and tasks ------------------------------------------------------------------------------


def test_the_judge_and_the_tasks_of_the_installation(settings, tmp_path):
    settings.JUDGE_URL, settings.JUDGE_MODEL, settings.JUDGE_API_KEY = JUDGE, "wise", "key"
    settings.TASKS_FOLDER = tmp_path / "tasks"
    settings.TASKS_FOLDER.mkdir()
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (settings.TASKS_FOLDER / name).write_text("")
    run = evaluating()
    found = asked(run)
    assert (found.judge_address, found.judge_model) == (JUDGE, "wise")
    assert [task.name for task in found.tasks] == ["a.jsonl", "b.jsonl"]
    assert child_environment(run)["JUDGE_API_KEY"] == "key"


def test_a_rounds_settings_name_others(settings, tmp_path):
    settings.JUDGE_URL, settings.JUDGE_MODEL, settings.JUDGE_API_KEY = JUDGE, "wise", "key"
    own = {"judge_address": "https://own.example/v1", "judge_model": "own", "tasks": ["own.jsonl"]}
    settings.RUN_SETTINGS = {"round": {"evaluate": own}}
    run = evaluating()
    found = asked(run)
    assert (found.judge_address, [str(task) for task in found.tasks]) == (
        "https://own.example/v1", ["own.jsonl"],
    )  # fmt: skip
    assert "JUDGE_API_KEY" not in child_environment(run)


def test_without_them_nothing_is_asked():
    found = asked(evaluating())
    assert (found.judge_address, found.tasks, found.independent) == (None, (), None)


def test_a_judge_that_nobody_configures_any_more_is_not_called(settings):
    settings.JUDGE_URL, settings.JUDGE_MODEL = JUDGE, "wise"
    run = evaluating()
    settings.JUDGE_URL = settings.JUDGE_MODEL = ""
    with pytest.raises(ValueError, match=f"{JUDGE} was to judge, but neither JUDGE_URL nor"):
        exchange.command(run)


def test_so_it_is_where_instructions_are_measured(settings):
    """Constraints without a rule are for a judge, this installation's unless the settings say."""
    settings.JUDGE_URL, settings.JUDGE_MODEL, settings.JUDGE_API_KEY = JUDGE, "wise", "key"
    settings.RUN_SETTINGS = {"round": {"stages": ["ppo", "instruction_keeping", "evaluate"]}}
    config = exchange.round_settings()
    assert config["instruction_keeping"] == {"judge_address": JUDGE, "judge_model": "wise"}
    round_ = ended("running", result=None, config=config)
    inputs = {"policy": round_.policy, "round_policy": round_.policy, "prompts": round_.prompt_set,
              "helpfulness": round_.helpfulness, "safety": round_.safety}  # fmt: skip
    run = Run.queue("instruction_keeping", config, inputs, round=round_)
    assert parse(InstructionKeepingConfig, "test", exchange.command(run)[3:]).judge_model == "wise"
    assert child_environment(run)["JUDGE_API_KEY"] == "key"
    assert "JUDGE_API_KEY" not in child_environment(Run.queue("ppo", config, {}, round=round_))
    settings.JUDGE_URL = settings.JUDGE_MODEL = ""
    with pytest.raises(ValueError, match=f"{JUDGE} was to judge, but neither JUDGE_URL nor"):
        exchange.command(run)


def test_a_folder_that_there_is_not_stops_the_start(monkeypatch):
    from annotation_app import settings

    monkeypatch.setenv("TASKS_FOLDER", "/nowhere")
    with pytest.raises(ImproperlyConfigured, match=r"TASKS_FOLDER is '/nowhere', allowed is a fol"):
        runpy.run_path(settings.__file__)


def test_importing_says_what_measuring_is(capsys):
    with pytest.raises(SystemExit):
        call_command("import_prompts", "--help")
    assert "--measure" in capsys.readouterr().out
