"""/rewards/scaling: what more comparisons bring, from reward models that are there and anew."""

from __future__ import annotations

import math
import os
import time
import uuid

import pytest
from django.urls import reverse

from annotation_app import exchange, snapshots, storage
from annotation_app.lifecycle import training
from annotation_app.models import Annotation, Checkpoint, DialogueRoot, Person, Run, Snapshot
from annotation_app.models.refusals import CannotStart
from annotation_app.supervise import report_progress, supervise
from annotation_app.views.scalings import spread
from reward.run_folder import RunFolder
from tests.annotation_app.rows import open_batch, released_chat_model
from tests.annotation_app.trained import evaluated, held_out, trained
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import rows, text
from tests.tiny_models import tiny_chat_model

pytestmark = pytest.mark.django_db
ADDRESS = "/rewards/scaling"


@pytest.fixture(autouse=True)
def plain_settings(settings, storage_root):
    settings.RUN_SETTINGS = None


@pytest.fixture
def grown() -> list[Checkpoint]:
    """Four reward models, each on twice as many comparisons as the one before."""
    return [trained(count=count) for count in (100, 200, 400, 800)]


RIGHTS = (0.55, 0.6, 0.65, 0.7)  # five points for every doubling


def table(client, name: str, of: Run, **query: object) -> list[dict[str, str]]:
    given = {"criterion": of.criterion, "of": of.pk, **query}
    return rows(client.get(reverse("scaling_table", args=[name]), given))


# --- from the reward models that there are -------------------------------------------------------


def test_it_works(as_alice, grown):
    run = evaluated(grown, rights=RIGHTS)
    page = text(as_alice.get(ADDRESS))
    assert "tiny: the next 400 comparisons should bring +2.9 points of accuracy" in page
    assert "On 60 held-out comparisons." in page
    points = table(as_alice, "scaling", run)
    assert [int(row["Trained on"]) for row in points] == [100, 200, 400, 800]
    assert [float(row["Accuracy"]) for row in points] == pytest.approx(RIGHTS)
    assert [row["Reward model"] for row in points] == [model.name for model in grown]
    assert {row["Held-out comparisons"] for row in points} == {"60"}
    double, following = table(as_alice, "scaling-line", run)
    assert float(double["Gain"]) == pytest.approx(0.05)
    assert float(following["Gain"]) == pytest.approx(0.05 * math.log2(1.5))
    assert float(following["Low"]) < float(following["Gain"]) < float(following["High"])


def test_the_next_batch_may_be_of_any_size(as_alice, grown):
    run = evaluated(grown, rights=RIGHTS)
    page = text(as_alice.get(ADDRESS, {"next": "800"}))
    assert "the next 800 comparisons should bring +5.0 points" in page
    assert "next=800" in page  # its file says the same
    following = table(as_alice, "scaling-line", run, next=800)[1]
    assert float(following["Gain"]) == pytest.approx(0.05)


def test_a_line_for_each_size_of_model(as_alice):
    models = [trained(count=n, line=line) for line in ("1B", "7B") for n in (100, 200, 400)]
    run = evaluated(models, rights=(0.5, 0.55, 0.6, 0.6, 0.7, 0.8))
    page = text(as_alice.get(ADDRESS))
    assert "1B: the next 200 comparisons" in page
    assert "7B: the next 200 comparisons" in page
    assert [row["Model"] for row in table(as_alice, "scaling", run)] == ["1B"] * 3 + ["7B"] * 3


def test_what_may_be_nothing_says_so(as_alice):
    evaluated([trained(count=n) for n in (100, 200, 400)], rights=(0.6, 0.58, 0.61))
    assert "That may be nothing: the interval holds 0." in text(as_alice.get(ADDRESS))


def test_the_batch_that_a_model_was_trained_through(as_alice, grown):
    first, second = open_batch(comparisons=1), open_batch("safety", comparisons=1)
    bob = Person.objects.create_user("b")
    for batch in (first, second):
        annotation = Annotation.objects.lease_next(bob, batch)
        annotation.record(choice="a", strength="better", a_safe=True, b_safe=True)
        grown[1].run.input("snapshot").annotations.add(annotation)
    run = evaluated(grown, rights=RIGHTS)
    through = [row["Trained through"] for row in table(as_alice, "scaling", run)]
    assert through == ["", first.name, "", ""]


def test_it_takes_the_evaluation_with_the_most_of_them(as_alice, grown):
    most = evaluated(grown, rights=RIGHTS)
    newer = evaluated(grown[2:])
    page = text(as_alice.get(ADDRESS))
    assert f'href="{reverse("reward_evaluation", args=[most.pk])}"' in page
    page = text(as_alice.get(ADDRESS, {"criterion": "helpfulness", "of": newer.pk}))
    assert "no line, since that takes 3 different numbers of comparisons and there are 2" in page


def test_only_what_all_of_them_scored_counts(as_alice, grown):
    run = evaluated(grown, rights=RIGHTS)
    file = exchange.run_folder(run).path / "scores-2.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:50]))
    points = table(as_alice, "scaling", run)
    assert {row["Held-out comparisons"] for row in points} == {"50"}


def test_models_of_another_criterion_or_from_outside_are_no_points(as_alice, grown):
    foreign = Checkpoint.objects.create(
        kind="helpfulness_reward", name="Foreign", line="tiny", storage_key="foreign"
    )
    safe = trained("safety", count=50)
    run = evaluated([foreign, *grown, safe], rights=(0.9, *RIGHTS, 0.9))
    named = [row["Reward model"] for row in table(as_alice, "scaling", run)]
    assert named == [model.name for model in grown]


def test_why_there_is_nothing_yet(as_alice):
    page = text(as_alice.get(ADDRESS, {"criterion": "safety"}))
    assert "No safety reward model was trained here yet." in page
    assert "this takes several trainings" in page
    trained("safety")
    page = text(as_alice.get(ADDRESS, {"criterion": "safety"}))
    assert "Only one safety reward model was trained here yet." in page
    assert "Measure" not in page.partition("<main")[2].partition("<form method")[2]


def test_all_of_them_are_measured_by_one_click(as_alice, grown):
    again = trained(count=800)  # other settings, say
    Checkpoint.objects.filter(pk=again.pk).update(kind="safety_reward")
    page = text(as_alice.get(ADDRESS))
    assert "No comparison has measured the helpfulness reward models on one holdout yet." in page
    assert "Measure 4 of 4 on one holdout" in page
    sent = [int(part.partition('"')[0]) for part in page.split('name="models" value="')[1:]]
    assert sent == [model.pk for model in grown]
    given = {"models": sent, "criterion": "helpfulness", "form_key": uuid.uuid4()}
    assert as_alice.post(reverse("evaluate_rewards"), given).status_code == 302
    assert exchange.evaluated_models(Run.objects.latest("pk")) == grown


def test_of_one_set_of_comparisons_the_newest_model(grown):
    snapshot = grown[0].run.input("snapshot")
    again = trained(count=100)
    again.run.inputs.filter(role="snapshot").update(snapshot=snapshot)
    found = Checkpoint.objects.trained_on_different_data("helpfulness")
    assert found == [*grown[1:], again]


def test_many_are_spread_from_the_first_to_the_newest():
    assert spread(list(range(20)), 8) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert spread(list(range(3)), 8) == [0, 1, 2]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"criterion": "kindness"}, "There is no criterion of that name."),
        ({"of": "999"}, "There is no such finished comparison"),
        ({"of": "<b>"}, "There is no such finished comparison"),
        ({"of": "9" * 40}, "There is no such finished comparison"),
        ({"next": "many"}, "Give the next batch as a whole number."),
        ({"next": "-1"}, "greater than or equal to 0"),
        ({"next": "9" * 12}, "less than or equal to 10000000"),
    ],
)
def test_a_strange_question_is_answered_with_a_sentence(as_alice, query, sentence):
    answer = as_alice.get(ADDRESS, query)
    assert answer.status_code == 400
    assert sentence in text(answer)
    assert as_alice.get(reverse("scaling_table", args=["scaling"]), query).status_code == 404


def test_an_evaluation_of_the_other_criterion(as_alice, grown):
    run = evaluated(grown)
    answer = as_alice.get(ADDRESS, {"criterion": "safety", "of": run.pk})
    assert answer.status_code == 400
    assert "is not of this criterion" in text(answer)


def test_no_query_for_each_model(as_alice, django_assert_max_num_queries):
    models = [trained(count=100 + n) for n in range(8)]
    evaluated(models)
    with django_assert_max_num_queries(22):
        as_alice.get(ADDRESS)


def test_researchers_only(as_rita, grown):
    for address in (ADDRESS, reverse("scaling_table", args=["scaling"]), f"{ADDRESS}/safety"):
        assert as_rita.get(address).status_code == 403
    assert as_rita.post(f"{ADDRESS}/safety/go").status_code == 403


# --- trained anew --------------------------------------------------------------------------------


@pytest.fixture
def collected(settings) -> Snapshot:
    """Two batches of judged comparisons, a third of them held out, and a chat model."""
    settings.HOLDOUT_SHARE = 0.0
    released_chat_model()
    bob = Person.objects.create_user("b")
    for week in range(2):
        batch = open_batch(comparisons=0)
        for number in range(9):
            judge_one(bob, batch, f"Week {week}, kettle {number}?", number % 3 == 0)
        batch.close()
        training.finish_batch(batch)
    Run.objects.all().delete()
    return snapshots.write_snapshot("helpfulness")


def judge_one(bob: Person, batch, question: str, is_held_out: bool) -> None:
    from tests.annotation_app.rows import comparison

    posed = comparison(batch, question, "Gladly, two years.", "No, go away.")
    if is_held_out:
        DialogueRoot.objects.filter(pk=posed.prompt.dialogue.root_id).update(split="holdout")
    Annotation.objects.lease_next(bob, batch).record(choice="a", strength="better")


def send(client, criterion: str = "helpfulness", **changed: object):
    given = {
        "starts": [Checkpoint.objects.chat().first().pk],
        "snapshot": Snapshot.objects.latest("pk").pk,
        "grow": "batches", "seeds": "0", "next_pairs": "0", "form_key": uuid.uuid4(),
    } | changed  # fmt: skip
    return client.post(reverse("start_scaling", args=[criterion]), given)


def test_it_is_asked_for(as_alice, alice, collected):
    page = text(as_alice.get(reverse("new_scaling", args=["helpfulness"])))
    assert "12 pairs, 6 held out" in page
    answer = send(as_alice, seeds="0 1", next_pairs="50")
    run = Run.objects.get()
    assert answer.url == reverse("run", args=[run.pk])
    assert (run.kind, run.criterion, run.asked_by) == ("reward_scaling", "helpfulness", alice)
    assert run.config == {"training": {}, "seeds": [0, 1], "next_pairs": 50}
    words = exchange.command(run)
    assert words[1:3] == ["-m", "reward.scaling"]
    assert words[words.index("--seeds") + 1 :][:2] == ["0", "1"]
    page = text(as_alice.get(reverse("scaling_run", args=[run.pk])))
    assert "is queued: there are no figures yet" in page
    Run.objects.update(config=run.config | {"training": {"epochs": 2}})
    page = text(as_alice.get(reverse("run", args=[run.pk])))
    assert "epochs</th><td>2</td>" in page
    assert f'href="{reverse("run", args=[run.pk])}"' in text(as_alice.get(ADDRESS))


def test_by_shares_with_the_settings_of_an_earlier_training(as_alice, collected):
    like = trained(held=[], learning_rate=3e-4, seed=7)
    given = {"snapshot": collected.pk, "as_trained": like.pk}
    send(as_alice, grow="shares", shares="0.5, 1", **given)
    run = Run.objects.get(kind="reward_scaling")
    assert run.config == {"training": {"learning_rate": 3e-4}, "seeds": [0], "shares": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"starts": []}, "Choose a chat model to start from."),
        ({"starts": ["999"]}, "There is no such chat model."),
        ({"starts": ["x"]}, "There is no such chat model."),
        ({"snapshot": ""}, "Choose the data."),
        ({"snapshot": "9" * 40}, "There is no such data of this criterion."),
        ({"grow": "wildly"}, "It grows batch by batch or by shares."),
        ({"grow": "shares", "shares": ""}, "Give the shares, such as 0.25 0.5 1."),
        ({"grow": "shares", "shares": "2"}, "Shares is 2.0, allowed is above 0 and up to 1."),
        ({"grow": "shares", "shares": "half"}, "Shares is &#x27;half&#x27;, allowed is a number."),
        ({"grow": "shares", "shares": "nan"}, "allowed is above 0 and up to 1"),
        ({"grow": "shares", "shares": "0.5 0.5"}, "Give each number once."),
        ({"seeds": ""}, "Give a seed, such as 0."),
        ({"seeds": "-1"}, "Give whole numbers of 9 digits at most."),
        ({"seeds": "1e9"}, "Give whole numbers of 9 digits at most."),
        ({"seeds": " ".join(map(str, range(11)))}, "Give 10 numbers at most."),
        ({"seeds": "1" * 5_000}, "at most 100 characters"),
        ({"next_pairs": "some"}, "Give the next batch as a whole number."),
        ({"as_trained": "999"}, "There is no such reward model of this criterion."),
        ({"form_key": "x"}, "valid UUID"),
    ],
)
def test_what_is_refused(as_alice, collected, changed, sentence):
    answer = send(as_alice, **changed)
    assert answer.status_code == 400
    assert sentence in text(answer)
    assert not Run.objects.exists()


def test_one_batch_cannot_be_grown_by(as_alice, collected):
    Annotation.objects.filter(comparison__batch__week=2).update(state="excluded")
    snapshots.write_snapshot("helpfulness")
    answer = send(as_alice)
    assert answer.status_code == 409
    assert "Fewer than two batches of helpfulness were collected" in text(answer)
    assert send(as_alice, grow="shares", shares="0.5 1").status_code == 302


def test_nothing_is_held_out(as_alice):
    released_chat_model()
    page = text(as_alice.get(reverse("new_scaling", args=["safety"])))
    assert "No safety comparison is held out yet" in page
    assert "<button>Train" not in page


def test_sent_twice_it_is_one_run(as_alice, collected):
    key = str(uuid.uuid4())
    first, second = (send(as_alice, form_key=key).url for _ in range(2))
    assert first == second
    assert Run.objects.count() == 1


def test_what_there_is_not(as_alice, collected):
    run = training.queue_scaling(collected, list(Checkpoint.objects.chat()), {})
    assert as_alice.get(reverse("new_scaling", args=["kindness"])).status_code == 404
    assert as_alice.post(reverse("start_scaling", args=["kindness"])).status_code == 404
    assert as_alice.get(reverse("start_scaling", args=["safety"])).status_code == 405
    assert as_alice.get(reverse("scaling_run_table", args=[run.pk, "x"])).status_code == 404
    Run.objects.update(kind="reward_judging")
    assert as_alice.get(reverse("scaling_run", args=[run.pk])).status_code == 404


def test_it_may_be_cancelled(as_alice, collected):
    run = training.queue_scaling(collected, list(Checkpoint.objects.chat()), {})
    as_alice.post(reverse("cancel_run", args=[run.pk]))
    page = text(as_alice.get(reverse("scaling_run", args=[run.pk])))
    assert "is cancelled: there are no figures. Its page says why." in page


def test_a_training_inside_is_a_sign_of_life(collected):
    """It may take longer than a run may be silent, and logs in a folder of its own."""
    run = training.queue_scaling(collected, list(Checkpoint.objects.chat()), {})
    run.claim()
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True)
    folder.log_metrics(0, 4)
    an_hour_ago = time.time() - 3_600
    os.utime(folder.metrics_file, (an_hour_ago, an_hour_ago))
    inner = RunFolder(folder.path / "runs" / "1-1-0")
    inner.path.mkdir(parents=True)
    before = time.time()
    inner.log_metrics(12, 30, loss=0.5)
    assert report_progress(run, folder)
    run.refresh_from_db()
    assert run.heartbeat_at.timestamp() >= before - 1
    assert (run.step, run.total_steps) == (0, 4)
    assert run.figures["training_at_work"] == "step 12 of 30"


@pytest.mark.django_db(transaction=True)
def test_with_real_trainings_in_a_real_process(as_alice, collected):
    start = Checkpoint.objects.chat().get()
    tiny_chat_model(storage.path(start.storage_key))
    quick = {"learning_rate": 3e-3, "pairs_per_step": 8}
    config = {"shares": [0.25, 0.5, 1.0], "seeds": [0, 1], "training": quick}
    run = training.queue_scaling(collected, [start], config)
    assert run.claim()
    supervise(run)
    run.refresh_from_db()
    assert (run.state, run.error) == ("succeeded", "")
    assert (run.step, run.total_steps) == (6, 6)
    page = text(as_alice.get(reverse("scaling_run", args=[run.pk])))
    assert f"{start.name}: the next 6 comparisons should bring" in page
    address = reverse("scaling_run_table", args=[run.pk, "scaling"])
    points = rows(as_alice.get(address))
    assert [row["Trained on"] for row in points] == ["3", "6", "12"]
    assert {row["Held-out comparisons"] for row in points} == {"6"}
    assert all(row["Lowest seed"] <= row["Highest seed"] for row in points)
    assert "scaling_run" not in page
    assert f'href="{reverse("scaling_run", args=[run.pk])}"' in text(as_alice.get(ADDRESS))


def test_a_page_says_why_it_cannot_be_queued(collected):
    with pytest.raises(CannotStart, match="grow by shares"):
        training.queue_scaling(Snapshot.objects.create(criterion="safety", storage_key="s"), [], {})


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(page, live_server, client, alice, scheme):
    models = [
        trained(count=n, line=line, held=held_out())
        for line in ("Llama 7B", "Llama 70B")
        for n in (5_561, 22_633, 52_779)
    ]
    evaluated(models, rights=(0.51, 0.55, 0.58, 0.51, 0.6, 0.63))
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme=scheme)
    for address in (ADDRESS, f"{ADDRESS}?criterion=safety", f"{ADDRESS}/helpfulness"):
        for size in (PHONE, {"width": 1280, "height": 900}):
            page.set_viewport_size(size)
            page.goto(live_server.url + address)
            for figure in page.locator("[data-figure]").all():
                figure.locator("svg.main-svg").first.wait_for()
            assert (violations(page), fits(page)) == ([], True), (address, size)
