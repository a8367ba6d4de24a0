"""/rewards/evaluate and /rewards/evaluations/<pk>: reward models on the same held-out pairs."""

from __future__ import annotations

import csv
import io
import json
import uuid

import pytest
from django.urls import reverse

from annotation_app import exchange, storage
from annotation_app.lifecycle import runs, training
from annotation_app.models import Checkpoint, Promotion, Run
from annotation_app.supervise import supervise
from tests.annotation_app.trained import evaluated, held_out, trained
from tests.annotation_app.views.conftest import text
from tests.reward.reward_models import ours

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


@pytest.fixture
def two() -> list[Checkpoint]:
    return [trained(), trained()]


def compare(client, checkpoints, criterion: str = "helpfulness", **more: object):
    models = [getattr(checkpoint, "pk", checkpoint) for checkpoint in checkpoints]
    sent = {"models": models, "criterion": criterion, "form_key": uuid.uuid4(), **more}
    return client.post(reverse("evaluate_rewards"), sent)


def test_it_works(as_alice, alice, two):
    answer = compare(as_alice, two[::-1])
    run = Run.objects.latest("pk")
    assert answer.url == reverse("run", args=[run.pk])
    assert (run.kind, run.criterion, run.asked_by) == ("reward_evaluation", "helpfulness", alice)
    assert exchange.evaluated_models(run) == two
    assert run.input("snapshot") == two[1].run.input("snapshot")  # the newest
    page = text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    assert "is queued: there are no figures yet" in page


def test_all_figures_stand_side_by_side(as_alice, two):
    run = evaluated(two)
    page = text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    assert "All of them scored the same 60 comparisons of 60 dialogues." in page
    for title in (
        "Paired differences", "Accuracy by strength", "Accuracy by batch", "Accuracy by turn",
        "Accuracy by length of the prompt", "Accuracy by number of annotators",
        "Accuracy by source", "Calibration of preferences", "Reliability", "Length bias",
        "Accuracy and what agreement allows", "Distribution of scores", "Drift",
    ):  # fmt: skip
        assert title in page, title
    assert page.count("On 60 comparisons.") > 8


def test_safety_has_its_own(as_alice):
    run = evaluated([trained("safety"), trained("safety")], "safety")
    page = text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    for title in ("Accuracy by safety bin", "Threshold for unsafe", "Recall and precision of",
                  "Calibration of safety"):  # fmt: skip
        assert title in page, title
    assert "labelled responses" in page


def test_every_table_is_a_file(as_alice, two):
    run = evaluated(two)
    page = text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    names = [part.partition(".csv")[0] for part in page.split(f"/evaluations/{run.pk}/tables/")[1:]]
    assert len(names) > 10
    for name in names:
        answer = as_alice.get(reverse("evaluation_table", args=[run.pk, name]))
        assert len(list(csv.DictReader(io.StringIO(text(answer))))) > 0, name
    paired = text(as_alice.get(reverse("evaluation_table", args=[run.pk, "paired"])))
    assert paired.splitlines()[0].startswith("First,Second,Comparisons,Dialogues,Difference")


def test_an_alarm_is_said_where_the_models_are(as_alice, two):
    run = evaluated(two)
    assert 'role="alert"' not in text(as_alice.get(reverse("rewards")))
    file = exchange.run_folder(run).result_file
    result = json.loads(file.read_text())
    drift = {"alarm": True, "sentence": "Week 1: accuracy 41 % <b>on</b> 30 pairs."}
    result["models"][0]["report"]["drift"] |= drift
    file.write_text(json.dumps(result))
    said = f"Drift of {two[0]}. Week 1: accuracy 41 % &lt;b&gt;on&lt;/b&gt; 30 pairs."
    assert said in text(as_alice.get(reverse("rewards")))
    assert said in text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    evaluated(two)  # a newer one, without an alarm
    assert said not in text(as_alice.get(reverse("rewards")))


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ([], "Choose two or more reward models."),
        ([1], "Choose two to 8 reward models."),
        ([1, 1], "Choose two to 8 reward models."),
        ([1, 999], "One of the chosen reward models does not exist."),
        ([1, "<script>"], "One of the chosen reward models does not exist."),
        ([1, "9" * 40], "One of the chosen reward models does not exist."),
    ],
)
def test_a_choice_that_cannot_be_compared(as_alice, two, models, sentence):
    numbers = {1: two[0].pk}
    answer = compare(as_alice, [numbers.get(model, model) for model in models])
    assert answer.status_code == 400
    assert sentence in text(answer)
    assert "<script>" not in text(answer).partition("<main")[2].partition("</main>")[0]
    assert not Run.objects.filter(kind="reward_evaluation").exists()


def test_what_was_chosen_stays_chosen(as_alice, two):
    page = text(compare(as_alice, two[:1]))
    assert page.count(" checked") == 1


def test_a_chat_model_is_no_reward_model(as_alice, two):
    answer = compare(as_alice, [two[0], Checkpoint.objects.chat().first()])
    assert answer.status_code == 400


def test_no_such_criterion(as_alice, two):
    answer = compare(as_alice, two, "kindness")
    assert answer.status_code == 400
    assert "There is no criterion of that name." in text(answer)


def test_nothing_is_held_out(as_alice):
    answer = compare(as_alice, [trained(held=[]), trained(held=[])])
    assert answer.status_code == 409
    assert "No helpfulness comparison is held out yet" in text(answer)


def test_sent_twice_it_is_one_run(as_alice, two):
    key = str(uuid.uuid4())
    first, second = (compare(as_alice, two, form_key=key).url for _ in range(2))
    assert first == second
    assert Run.objects.filter(kind="reward_evaluation").count() == 1


def test_what_there_is_not(as_alice, two):
    run = evaluated(two)
    other = two[0].run_id
    assert as_alice.get(reverse("reward_evaluation", args=[other])).status_code == 404
    assert as_alice.get(reverse("evaluation_table", args=[run.pk, "x"])).status_code == 404
    assert as_alice.get(reverse("evaluation_table", args=[other, "accuracy"])).status_code == 404
    assert as_alice.get(reverse("evaluate_rewards")).status_code == 405


def test_researchers_only(as_rita, two):
    run = evaluated(two)
    assert compare(as_rita, two).status_code == 403
    assert as_rita.get(reverse("reward_evaluation", args=[run.pk])).status_code == 403
    address = reverse("evaluation_table", args=[run.pk, "accuracy"])
    assert as_rita.get(address).status_code == 403


def test_models_of_one_name_are_told_apart(two):
    Checkpoint.objects.rewards().update(name="Same")
    words = exchange.command(training.queue_reward_evaluation("helpfulness", two))
    start = words.index("--names") + 1
    assert words[start : start + 2] == [f"Same ({checkpoint.pk})" for checkpoint in two]


# --- by itself -----------------------------------------------------------------------------------


def finish_training(criterion: str = "helpfulness", times: int = 1) -> Run:
    """Reward training that succeeds, told as often as a broker likes."""
    snapshot = trained(criterion).run.input("snapshot")
    start = Checkpoint.objects.chat().first()
    inputs = {"start": start, "snapshot": snapshot}
    run = Run.queue(Run.Kind.REWARD_TRAINING, {}, inputs, criterion=criterion)
    run.claim()
    folder = exchange.run_folder(run)
    folder.model.mkdir(parents=True)
    for _ in range(times):
        runs.run_succeeded(run, {"model": "model", "holdout": {}})
    return run


def test_a_new_model_is_measured_beside_the_one_in_force():
    first, second = trained(), trained()
    Promotion.promote(first)
    run = finish_training(times=3)
    asked = Run.objects.get(kind="reward_evaluation")
    assert exchange.evaluated_models(asked) == [first, run.checkpoint]
    assert second not in exchange.evaluated_models(asked)


def test_beside_the_one_before_where_none_is_in_force():
    trained()
    finish_training()
    asked = Run.objects.get(kind="reward_evaluation")
    assert len(exchange.evaluated_models(asked)) == 2


def test_the_first_model_of_a_criterion_has_nothing_beside_it():
    trained("safety")
    start = Checkpoint.objects.chat().first()
    inputs = {"start": start, "snapshot": trained("safety").run.input("snapshot")}
    run = Run.queue(Run.Kind.REWARD_TRAINING, {}, inputs, criterion="helpfulness")
    run.claim()
    exchange.run_folder(run).model.mkdir(parents=True)
    runs.run_succeeded(run, {"model": "model", "holdout": {}})
    assert not Run.objects.filter(kind="reward_evaluation").exists()


def test_it_can_be_switched_off(settings):
    settings.EVALUATE_AFTER_TRAINING = False
    trained()
    finish_training()
    assert not Run.objects.filter(kind="reward_evaluation").exists()


@pytest.mark.django_db(transaction=True)
def test_with_the_real_models_in_a_real_process(as_alice):
    held = held_out(count=12)
    models = [trained(held=held), trained(held=held)]
    for seed, model in enumerate(models):
        ours(storage.path(model.storage_key), seed)
    folder = storage.path(models[1].run.input("snapshot").storage_key)
    (folder / "ties.jsonl").touch()
    run = training.queue_reward_evaluation("helpfulness", models)
    assert run.claim()
    supervise(run)
    run.refresh_from_db()
    assert (run.state, run.error) == ("succeeded", "")
    page = text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    assert "All of them scored the same 12 comparisons" in page
    assert "Paired differences" in page
