"""/rewards/retrain/…: the trainer's own settings as a form."""

from __future__ import annotations

import dataclasses
import re
import uuid
from pathlib import Path

import pytest
from django.urls import reverse

from annotation_app import exchange
from annotation_app.forms import RetrainForm
from annotation_app.forms.retraining import OF_THE_SERVER
from annotation_app.models import Annotation, Checkpoint, Person, Run
from reward.config import TrainConfig
from tests.annotation_app.rows import open_batch, released_chat_model
from tests.annotation_app.trained import trained
from tests.annotation_app.views.conftest import text

pytestmark = pytest.mark.django_db
ADDRESS = "/rewards/retrain/helpfulness"


@pytest.fixture(autouse=True)
def plain_settings(settings, storage_root):
    settings.RUN_SETTINGS = None
    settings.HOLDOUT_SHARE = 0.0


@pytest.fixture
def judged() -> Checkpoint:
    """A chat model, and three comparisons to train on."""
    checkpoint = released_chat_model().checkpoint
    batch, bob = open_batch(), Person.objects.create_user("b")
    while (annotation := Annotation.objects.lease_next(bob, batch)) is not None:
        annotation.record(choice="a", strength="better")
    return checkpoint


def filled(criterion: str = "helpfulness", **changed: str) -> dict[str, str]:
    """What a browser sends when nothing but this was changed."""
    form = RetrainForm(criterion, installed={})
    given = {name: form[name].value() for name in form.fields}
    given |= {"start": Checkpoint.objects.chat().get().pk, "form_key": uuid.uuid4()}
    given |= changed
    return {name: str(value) for name, value in given.items() if value not in {None, ""}
            and value is not False}  # fmt: skip


def send(client, **changed: str):
    return client.post(reverse("retrain_with", args=["helpfulness"]), filled(**changed))


def test_it_works(as_alice, alice, judged):
    assert as_alice.get(ADDRESS).status_code == 200
    answer = send(as_alice, learning_rate="2e-5", margin="large", soft_labels="on")
    run = Run.objects.get()
    assert answer.url == reverse("run", args=[run.pk])
    assert run.config == {"learning_rate": 2e-5, "margin": "large", "soft_labels": True}
    assert (run.asked_by, run.criterion, run.input("start")) == (alice, "helpfulness", judged)
    words = exchange.command(run)
    assert words[words.index("--margin") + 1] == "large"
    page = text(as_alice.get(answer.url))
    assert re.search(r"margin</th><td>large</td><td>small</td>", page)


def test_ties_are_handed_over_to_be_learnt_from_only_with_a_threshold(as_alice, judged):
    send(as_alice, tie_threshold="0.2")
    run = Run.objects.get()
    tied = exchange.command(run)
    run.config = {}
    plain = exchange.command(run)
    assert "--ties" not in plain
    assert tied[tied.index("--ties") + 1].endswith("/ties.jsonl")
    for words in (plain, tied):
        measured = words[words.index("--agreement") + 1 :][:4]
        assert [Path(word).name for word in measured] == [
            "holdout.jsonl", "holdout_ties.jsonl", "pairs.jsonl", "ties.jsonl",
        ]  # fmt: skip


def test_settings_that_need_each_other_are_taken_together(as_alice, judged):
    send(as_alice, lora_rank="8", lora_alpha="32")
    assert Run.objects.get().config == {"lora_rank": 8, "lora_alpha": 32}


def test_every_setting_of_the_trainer_is_there_with_its_help(as_alice, judged):
    page = text(as_alice.get("/rewards/retrain/safety"))
    for field in dataclasses.fields(TrainConfig):
        assert (f'name="{field.name}"' in page) == (field.name not in OF_THE_SERVER), field.name
    assert "Margin by preference strength; table 27" in page


def test_a_setting_that_no_group_names_comes_last(monkeypatch):
    monkeypatch.setattr("annotation_app.forms.retraining.GROUPS", {"Loss": ("margin",)})
    titles = [title for title, _ in RetrainForm("safety", installed={}).groups()]
    assert titles == ["Loss", "Further settings"]


def test_nothing_changed_is_the_recipe(as_alice, judged):
    send(as_alice)
    run = Run.objects.get()
    assert run.config == {}
    assert "recipe's own, all of them" in text(as_alice.get(reverse("run", args=[run.pk])))


def test_only_the_safety_model_has_the_auxiliary_loss(as_alice, judged):
    assert "auxiliary_weight" not in text(as_alice.get(ADDRESS))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("learning_rate", "-1", "Learning rate is -1.0, allowed is above 0."),
        ("learning_rate", "nan", "Learning rate is nan, allowed is above 0."),
        ("learning_rate", "fast", "Learning rate is &#x27;fast&#x27;, allowed is a number."),
        ("epochs", "0", "Epochs is 0, allowed is 1 or more."),
        ("epochs", "1.5", "Epochs is &#x27;1.5&#x27;, allowed is a whole number."),
        (
            "lora_alpha",
            "32",
            "Lora alpha is 32, which changes nothing: it needs lora_rank above 0.",
        ),
        ("label_smoothing", "0.5", "Label smoothing is 0.5, allowed is 0 or more and below 0.5."),
        ("pairs_per_step", "", "Give a number; the recipe&#x27;s is 512."),
        ("seed", "9" * 5_000, "at most 18 characters"),
        ("margin", "huge", "huge is not one of the available choices"),
        ("start", "999999", "There is no such chat model."),
        ("start", "<script>", "There is no such chat model."),
        ("snapshot", "9" * 30, "There is no such data of this criterion."),
    ],
)
def test_a_refused_value_stays_with_what_is_allowed(as_alice, judged, name, value, sentence):
    answer = send(as_alice, **{name: value, "weight_decay": "0.25"})
    assert answer.status_code == 400
    page = text(answer)
    assert sentence in page
    assert 'value="0.25"' in page
    assert "<script>" not in page.partition('id="retrain"')[2].partition("</form>")[0]
    assert not Run.objects.exists()


def test_sent_twice_it_is_one_run(as_alice, judged):
    sent = filled(margin="large")
    address = reverse("retrain_with", args=["helpfulness"])
    first, second = (as_alice.post(address, sent).url for _ in range(2))
    assert first == second
    Run.objects.update(state="running")
    assert as_alice.post(address, sent).url == first
    assert Run.objects.count() == 1


def test_one_click_twice_is_one_run_too(as_alice, judged):
    sent = {"criterion": "helpfulness", "form_key": str(uuid.uuid4())}
    first = as_alice.post(reverse("retrain"), sent).url
    Run.objects.update(state="running")
    assert as_alice.post(reverse("retrain"), sent).url == first
    assert Run.objects.count() == 1


def test_two_at_the_same_moment_are_one_run(judged):
    """The second one had looked before the first one wrote."""
    key, inputs = uuid.uuid4(), {"start": judged}
    runs = [
        Run.queue(Run.Kind.REWARD_TRAINING, {}, inputs, criterion="safety", form_key=key)
        for _ in range(2)
    ]
    assert runs[0] == runs[1] == Run.objects.get()


def test_another_that_waits_is_said_and_nothing_is_lost(as_alice, judged):
    send(as_alice)
    answer = send(as_alice, margin="large")
    assert answer.status_code == 409
    assert "queued already" in text(answer)
    assert '<option value="large" selected>' in text(answer)
    assert Run.objects.count() == 1


def test_without_comparisons_it_says_so(as_alice):
    released_chat_model()
    answer = send(as_alice)
    assert answer.status_code == 409
    assert "no helpfulness comparison with a choice" in text(answer)


def test_the_same_frozen_data_again(as_alice):
    earlier = trained().run.input("snapshot")
    send(as_alice, snapshot=str(earlier.pk))
    assert Run.objects.latest("pk").input("snapshot") == earlier


def test_another_criterions_data_is_refused(as_alice):
    other = trained("safety").run.input("snapshot")
    answer = send(as_alice, snapshot=str(other.pk))
    assert "There is no such data of this criterion." in text(answer)


def test_what_the_installation_changes_is_seen(as_alice, judged, settings, tmp_path):
    settings.RUN_SETTINGS = {"reward_training": {"epochs": 7}}
    page = text(as_alice.get(ADDRESS))
    assert 'class="setting changed" data-recipe="1"' in page
    assert 'name="epochs" value="7"' in page
    page = text(as_alice.get(f"{ADDRESS}?start=recipe"))
    assert 'name="epochs" value="1"' in page
    assert "setting changed" not in page


def test_no_such_criterion(as_alice):
    assert as_alice.get("/rewards/retrain/kindness").status_code == 404
    assert as_alice.post("/rewards/retrain/kindness/go").status_code == 404


def test_researchers_only(as_bob):
    assert as_bob.get(ADDRESS).status_code == 403
    assert as_bob.post(reverse("retrain_with", args=["helpfulness"])).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_what_differs_is_marked_as_it_is_typed(page, live_server, client, alice, judged):
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.goto(live_server.url + ADDRESS)
    told = page.locator("#changed")
    assert told.inner_text() == "The recipe's own settings."
    page.fill("[name=learning_rate]", "0.00001")  # the same number
    page.check("[name=soft_labels]")
    page.keyboard.press("Tab")
    assert told.inner_text() == "One setting differs from the recipe."
    page.get_by_role("button", name="Train").click()
    page.wait_for_load_state()
    assert "soft labels" in page.locator("main").inner_text()
    assert Run.objects.get().config == {"soft_labels": True}
