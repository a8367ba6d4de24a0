"""/runs/<pk>: curves that go on by themselves, their numbers, and all of it as CSV."""

from __future__ import annotations

import csv
import io

import pytest
from django.urls import reverse

from annotation_app import exchange
from annotation_app.models import Run
from annotation_app.supervise import report_progress
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.trained import frozen, held_out, log_steps

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


@pytest.fixture
def running(db, settings, tmp_path) -> Run:
    settings.STORAGE_ROOT = tmp_path
    inputs = {"start": released_chat_model().checkpoint, "snapshot": frozen("safety", held_out())}
    run = Run.queue(Run.Kind.REWARD_TRAINING, {}, inputs, criterion="safety")
    assert run.claim()
    return run


def go_on(run: Run, step: int) -> None:
    log_steps(run, step)
    assert report_progress(run, exchange.run_folder(run))


def test_it_works(as_alice, running):
    go_on(running, 10)
    page = as_alice.get(reverse("run", args=[running.pk])).content.decode()
    assert "step 10 of 30" in page
    for title in ("Loss", "Accuracy on the pairs", "Learning rate", "Gradient norm"):
        assert title in page
    assert "safety auxiliary" not in page  # it was 0 at every step


def test_before_the_first_step(as_alice, running):
    page = as_alice.get(reverse("run", args=[running.pk])).content.decode()
    assert page.count("No step has logged it yet.") == 4


def test_a_run_without_curves_has_none(as_alice):
    start = released_chat_model().checkpoint
    run = Run.queue(Run.Kind.SAMPLING, {"temperature": [0.8, 1.0]}, {"first": start})
    page = as_alice.get(reverse("run", args=[run.pk])).content.decode()
    assert "Curves" not in page
    assert "temperature</th><td>[0.8, 1.0]</td>" in page


def test_polls_bring_numbers_and_figures_but_no_page(as_alice, running):
    go_on(running, 3)
    part = as_alice.get(reverse("run", args=[running.pk]), headers={"HX-Request": "true"})
    text = part.content.decode()
    assert "<html" not in text
    assert text.count("application/json") == 4
    assert text.count('hx-swap-oob="true"') == 5  # their numbers and the log
    assert "aria-live" not in text
    assert "HX-Refresh" not in part.headers
    running.succeed()
    part = as_alice.get(reverse("run", args=[running.pk]), headers={"HX-Request": "true"})
    assert part.headers["HX-Refresh"] == "true"


def test_everything_logged_as_csv(as_alice, running):
    go_on(running, 4)
    answer = as_alice.get(reverse("run_metrics", args=[running.pk]))
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[1]["loss"] == "0.5"
    assert "attachment" in answer.headers["Content-Disposition"]


def test_researchers_only(as_bob, running):
    assert as_bob.get(reverse("run_metrics", args=[running.pk])).status_code == 403
    assert as_bob.get(reverse("run", args=[running.pk])).status_code == 403


def test_no_such_run(as_alice):
    assert as_alice.get(reverse("run_metrics", args=[999])).status_code == 404


def test_a_poll_costs_two_queries_and_those_of_the_session(
    as_alice, running, django_assert_max_num_queries
):
    go_on(running, 20)
    with django_assert_max_num_queries(3):
        as_alice.get(reverse("run", args=[running.pk]), headers={"HX-Request": "true"})


@pytest.mark.django_db(transaction=True)
def test_curves_go_on_without_loading_the_page_again(page, live_server, client, alice, running):
    go_on(running, 5)
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.goto(live_server.url + reverse("run", args=[running.pk]))
    page.evaluate("window.isTheSamePage = true")
    drawn = "n => document.querySelector('[data-figure=loss]').data?.[0].x.length === n"
    page.wait_for_function(drawn, arg=5)
    numbers = page.locator("#numbers-accuracy tbody td").first
    assert numbers.inner_text() == "0.55"
    go_on(running, 9)
    page.wait_for_function(drawn, arg=9)
    assert numbers.inner_text() == "0.59"
    assert "step 9 of 30" in page.locator("#live").inner_text()
    assert page.evaluate("window.isTheSamePage")
    assert page.locator("main [aria-live]").count() == 1  # the messages of every page
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_url("**/runs/*")
    assert "being cancelled" in page.locator("main").inner_text()
