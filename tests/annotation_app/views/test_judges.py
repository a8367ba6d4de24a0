"""/rewards/judges: a chat model judges held-out comparisons, and stands beside reward models."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.urls import reverse

from annotation_app import exchange, storage
from annotation_app.lifecycle import runs, training
from annotation_app.models import Promotion, Run
from annotation_app.supervise import child_environment, supervise
from reward.config import JudgeConfig
from reward.judge import judged, verdict_scores
from reward.preferences import read_pairs
from reward.scores import write_scores
from tests.annotation_app.trained import evaluated, held_out, trained
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import rows, text
from tests.reward.chat_server import Answer, chat_server, says
from tests.reward.reward_models import ours

pytestmark = pytest.mark.django_db
ADDRESS = "/rewards/judges"


@pytest.fixture(autouse=True)
def configured(settings, tmp_path):
    settings.STORAGE_ROOT = tmp_path
    settings.RUN_SETTINGS = None
    settings.JUDGE_URL, settings.JUDGE_MODEL = "http://judge.invalid:9", "wise"
    settings.JUDGE_API_KEY = ""


def ask(client, criterion: str = "helpfulness", **more: object):
    given = {"criterion": criterion, "form_key": uuid.uuid4(), **more}
    return client.post(reverse("ask_judge"), given)


def finished(criterion: str = "helpfulness", first: int = 6) -> Run:
    """A judging that is done: right about all but every third pair, where it takes the place that
    the response stands in; ``first`` questions were refused."""
    run = training.queue_judging(criterion)
    run.claim()
    run.succeed()
    holdout = storage.path(run.input("snapshot").storage_key) / "holdout.jsonl"
    held = list(read_pairs(holdout))
    answers: dict[tuple[str, str], dict[str, Any]] = {}
    for number, pair in enumerate(held):
        for order, chosen in (("chosen_first", "A"), ("rejected_first", "B")):
            picked = None if number < first else "A" if number % 3 == 0 else chosen
            record = {"id": pair.id, "order": order, "picked": picked, "refused": number < first}
            answers[pair.id, order] = record
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True)
    config = JudgeConfig(
        address="http://judge.invalid:9", model="wise", pairs=holdout, out=folder.path,
        criterion=criterion, resamples=100,
    )  # fmt: skip
    scored = verdict_scores(held, answers)
    write_scores(folder.path / "scores.jsonl", scored)
    folder.write_result(judged(config, scored, answers))
    return run


# --- asking --------------------------------------------------------------------------------------


def test_it_works(as_alice, alice):
    trained()
    page = text(as_alice.get(ADDRESS))
    assert "wise at http://judge.invalid:9 judges, without a key." in page
    assert "Ask about helpfulness: 120 questions" in page
    assert "No safety comparison is held out yet" in page
    assert "Nothing was judged yet." in page
    answer = ask(as_alice)
    run = Run.objects.get(kind="reward_judging")
    assert answer.url == reverse("run", args=[run.pk])
    assert (run.criterion, run.asked_by) == ("helpfulness", alice)
    assert run.config == {"address": "http://judge.invalid:9", "model": "wise"}
    words = exchange.command(run)
    assert words[1:3] == ["-m", "reward.judge"]
    assert words[words.index("--criterion") + 1] == "helpfulness"
    page = text(as_alice.get(reverse("judging", args=[run.pk])))
    assert "is queued: there are no figures yet" in page


def test_without_a_judge_the_page_says_how(as_alice, settings):
    settings.JUDGE_URL = settings.JUDGE_MODEL = ""
    trained()
    page = text(as_alice.get(ADDRESS))
    assert "No judge is configured, and nobody is called." in page
    assert "JUDGE_URL" in page
    assert "Ask about" not in page
    answer = ask(as_alice)
    assert answer.status_code == 409
    assert "No judge is configured: set JUDGE_URL and JUDGE_MODEL." in text(answer)
    assert not Run.objects.filter(kind="reward_judging").exists()


def test_a_judge_that_is_no_longer_configured_is_not_called(settings):
    """The run waited; its address, and whoever sits there now, gets neither texts nor key."""
    trained()
    run = training.queue_judging("helpfulness")
    settings.JUDGE_URL = "http://other.invalid"
    assert run.claim()
    supervise(run)
    run.refresh_from_db()
    assert run.state == "failed"
    assert "wise at http://judge.invalid:9 was to judge, but JUDGE_URL" in run.error


def test_only_a_judging_sees_the_key(settings, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "very-secret")
    settings.JUDGE_API_KEY = "very-secret"
    of_rewards = trained().run
    judging = training.queue_judging("helpfulness")
    assert "very-secret" not in child_environment(of_rewards).values()
    assert child_environment(judging)["JUDGE_API_KEY"] == "very-secret"
    assert "very-secret" not in " ".join(exchange.command(judging))


def test_an_installation_may_set_how_it_is_asked(settings, tmp_path):
    settings.RUN_SETTINGS = {"reward_judging": {"max_new_tokens": 64, "model": "x"}}
    trained()
    run = training.queue_judging("helpfulness")
    assert (run.config["max_new_tokens"], run.config["model"]) == (64, "wise")


def test_nothing_is_held_out(as_alice):
    answer = ask(as_alice, "safety")
    assert answer.status_code == 409
    assert "No safety comparison is held out yet" in text(answer)


def test_no_such_criterion(as_alice):
    answer = ask(as_alice, "kindness")
    assert answer.status_code == 400
    assert "Say which comparisons" in text(answer)


def test_sent_twice_it_is_one_run(as_alice):
    trained()
    key = str(uuid.uuid4())
    first, second = (ask(as_alice, form_key=key).url for _ in range(2))
    assert first == second
    assert Run.objects.filter(kind="reward_judging").count() == 1


def test_it_judges_once_at_a_time(as_alice):
    trained()
    ask(as_alice)
    answer = ask(as_alice)
    assert answer.status_code == 409
    assert "are being judged already" in text(answer)


def test_researchers_only(as_rita):
    trained()
    run = finished()
    assert as_rita.get(ADDRESS).status_code == 403
    assert ask(as_rita).status_code == 403
    assert as_rita.get(reverse("judging", args=[run.pk])).status_code == 403
    assert as_rita.get(reverse("judging_table", args=[run.pk, "orders"])).status_code == 403


def test_what_there_is_not(as_alice):
    other = trained().run
    run = finished()
    assert as_alice.get(reverse("ask_judge")).status_code == 405
    assert as_alice.get(reverse("judging", args=[other.pk])).status_code == 404
    assert as_alice.get(reverse("judging_table", args=[run.pk, "x"])).status_code == 404


# --- what it said --------------------------------------------------------------------------------


def test_the_figures_of_a_judging(as_alice):
    trained()
    run = finished()
    page = text(as_alice.get(reverse("judging", args=[run.pk])))
    for title in ("Accuracy", "Order bias of judges", "Accuracy by strength", "Length bias"):
        assert title in page, title
    for title in ("Distribution of scores", "Calibration", "Threshold"):
        assert title not in page, title
    orders = rows(as_alice.get(reverse("judging_table", args=[run.pk, "orders"])))
    assert [(row["Count"], row["Of"], row["Of what"]) for row in orders] == [
        ("72", "108", "answers"),  # of 54 understood, 18 take the first place both times
        ("36", "54", "comparisons"),
        ("0", "120", "questions"),
        ("12", "120", "questions"),
        ("0", "120", "questions"),
    ]
    assert float(orders[0]["Share"]) == pytest.approx(72 / 108)
    assert "On 60 comparisons. Low and high: the 95 % interval. Each comparison is asked" in page
    (accuracy,) = rows(as_alice.get(reverse("judging_table", args=[run.pk, "accuracy"])))
    assert float(accuracy["Accuracy"]) == pytest.approx((36 + 24 / 2) / 60)
    listed = text(as_alice.get(ADDRESS))
    assert f'href="{reverse("judging", args=[run.pk])}">wise</a>' in listed
    assert "80.0 %" in listed


def test_it_stands_beside_the_reward_model_in_force(settings):
    first, _ = trained(), trained()
    Promotion.promote(first)
    run = training.queue_judging("helpfulness")
    run.claim()
    for _ in range(2):  # told as often as a broker likes
        runs.run_succeeded(run, {"model": "wise", "count": 60})
    asked = Run.objects.get(kind="reward_evaluation")
    assert exchange.evaluated_models(asked) == [first]
    assert asked.input("judge_1") == run
    assert asked.input("snapshot") == run.input("snapshot")
    words = exchange.command(asked)
    assert words[words.index("--judged") + 1] == str(storage.path(run.storage_key))
    start = words.index("--names") + 1
    assert words[start : start + 2] == [first.name, "wise (judge)"]


def test_figures_call_it_by_the_end_of_its_name(settings):
    settings.JUDGE_MODEL = "/srv/models/wise-70b"
    trained()
    run = training.queue_judging("helpfulness")
    asked = training.queue_reward_evaluation("helpfulness", [], [run])
    words = exchange.command(asked)
    assert words[words.index("--names") + 1] == "wise-70b (judge)"
    assert "--models" not in words


def test_beside_the_newest_where_none_is_in_force(settings):
    _, second = trained(), trained()
    run = training.queue_judging("helpfulness")
    run.claim()
    runs.run_succeeded(run, {"model": "wise", "count": 60})
    assert exchange.evaluated_models(Run.objects.latest("pk")) == [second]


def compare(client, models, judgings, criterion: str = "helpfulness"):
    given = {
        "models": [model.pk for model in models],
        "judgings": [getattr(it, "pk", it) for it in judgings],
        "criterion": criterion, "form_key": uuid.uuid4(),
    }  # fmt: skip
    return client.post(reverse("evaluate_rewards"), given)


def test_it_may_be_chosen_beside_reward_models(as_alice):
    one = trained()
    judging = finished()
    newer = trained()  # whose holdout the judge has not seen
    page = text(as_alice.get(reverse("rewards")))
    assert f'name="judgings" value="{judging.pk}"' in page
    assert compare(as_alice, [one, newer], [judging]).status_code == 302
    run = Run.objects.latest("pk")
    assert run.input("snapshot") == judging.input("snapshot")
    assert exchange.evaluated_models(run) == [one, newer]
    assert text(as_alice.get(reverse("run", args=[run.pk]))).count("judge 1:") == 1


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (["999"], "One of the chosen judgings is not done, or does not exist."),
        (["<b>"], "One of the chosen judgings does not exist."),
    ],
)
def test_a_judging_that_there_is_not(as_alice, chosen, sentence):
    answer = compare(as_alice, [trained()], chosen)
    assert answer.status_code == 400
    assert sentence in text(answer)
    assert not Run.objects.filter(kind="reward_evaluation").exists()


def test_judgings_that_cannot_stand_together(as_alice):
    one = trained()
    first = finished()
    two, safe = trained(), trained("safety")
    second, of_safety = finished(), finished("safety")
    answer = compare(as_alice, [one, two], [first, second])
    assert "The chosen judges judged different comparisons" in text(answer)
    assert text(answer).count(" checked") == 4  # what was chosen stays chosen
    answer = compare(as_alice, [one, safe], [of_safety])
    assert "A judge of one criterion is no judge of the other." in text(answer)
    waiting = training.queue_judging("safety")
    assert "is not done" in text(compare(as_alice, [safe], [waiting], "safety"))
    assert not Run.objects.filter(kind="reward_evaluation").exists()


def test_the_order_bias_stands_in_the_comparison(as_alice):
    model = trained()
    judging = finished()
    run = evaluated([model])
    run.inputs.create(role="judge_1", other_run=judging)
    page = text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    assert "wise as judge</a>" in page
    assert "Order bias of judges" in page
    orders = rows(as_alice.get(reverse("evaluation_table", args=[run.pk, "orders"])))
    assert orders[0]["What it did"] == "picked the response that stood first"
    page = text(as_alice.get(reverse("judging", args=[judging.pk])))
    assert f'href="{reverse("reward_evaluation", args=[run.pk])}"' in page


# --- really asked --------------------------------------------------------------------------------


def polite(request: dict[str, Any]) -> Answer:
    """A judge who is right, and says so at length."""
    material = request["messages"][-1]["content"]
    is_first = "<response_A>\nGladly" in material
    return says(f"Let me think.\nVERDICT: {'A' if is_first else 'B'}")


@pytest.mark.django_db(transaction=True)
def test_with_a_real_server_and_real_processes(as_alice, settings):
    """Asked over HTTP, with the key; then compared with a real reward model on the same pairs."""
    model = trained(held=held_out(count=12))
    ours(storage.path(model.storage_key), 0)
    folder = storage.path(model.run.input("snapshot").storage_key)
    (folder / "ties.jsonl").touch()
    settings.JUDGE_API_KEY = "very-secret"
    with chat_server(polite) as server:
        settings.JUDGE_URL = server.address
        ask(as_alice)
        judging = Run.objects.get(kind="reward_judging")
        assert judging.claim()
        supervise(judging)
    judging.refresh_from_db()
    assert (judging.state, judging.error) == ("succeeded", "")
    assert (judging.step, judging.total_steps) == (24, 24)
    assert len(server.heard) == 24
    assert {heard.headers["Authorization"] for heard in server.heard} == {"Bearer very-secret"}
    run = Run.objects.get(kind="reward_evaluation")  # queued by itself
    assert run.claim()
    supervise(run)
    run.refresh_from_db()
    assert (run.state, run.error) == ("succeeded", "")
    accuracy = rows(as_alice.get(reverse("evaluation_table", args=[run.pk, "accuracy"])))
    assert [row["Model"] for row in accuracy] == [model.name, "wise (judge)"]
    assert accuracy[1]["Accuracy"] == "1.0"
    page = text(as_alice.get(reverse("reward_evaluation", args=[run.pk])))
    assert "All of them scored the same 12 comparisons" in page
    assert "Order bias of judges" in page
    for file in storage.path(judging.storage_key).rglob("*"):
        assert not file.is_file() or b"very-secret" not in file.read_bytes()


@pytest.mark.django_db(transaction=True)
def test_a_server_that_breaks_down_is_said_and_asked_again(as_alice, settings, tmp_path):
    settings.RUN_SETTINGS = {"reward_judging": {"attempts": 1, "parallel_requests": 2}}
    trained(held=held_out(count=4))
    is_mended = False

    def answer(request):
        return polite(request) if len(server.heard) <= 4 or is_mended else Answer(b"", 500)

    with chat_server(answer) as server:
        settings.JUDGE_URL = server.address
        run = training.queue_judging("helpfulness")
        assert run.claim()
        supervise(run)
        run.refresh_from_db()
        assert run.state == "failed"
        assert "questions got no answer" in run.error
        is_mended, before = True, len(server.heard)
        as_alice.post(reverse("retry_run", args=[run.pk]))
        run.refresh_from_db()
        assert run.claim()
        supervise(run)
        assert len(server.heard) - before == 4
    run.refresh_from_db()
    assert run.state == "succeeded"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(page, live_server, client, alice, scheme):
    model = trained()
    judging = finished()
    run = evaluated([model])
    run.inputs.create(role="judge_1", other_run=judging)
    long = {"address": "http://127.0.0.1:8001", "model": f"/srv/checkpoints/{'0123456789' * 6}"}
    Run.objects.filter(pk=judging.pk).update(config=long)
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme=scheme)
    addresses = [ADDRESS, reverse("judging", args=[judging.pk]), reverse("rewards"),
                 reverse("reward_evaluation", args=[run.pk])]  # fmt: skip
    for address in addresses:
        for size in (PHONE, {"width": 1280, "height": 900}):
            page.set_viewport_size(size)
            page.goto(live_server.url + address)
            for figure in page.locator("[data-figure]").all():
                figure.locator("svg.main-svg").first.wait_for()
            assert (violations(page), fits(page)) == ([], True), (address, size)
