"""/rounds/<pk>: the stepper, each stage's figures as they come, their tables and files."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime

import pytest
from django.urls import reverse

from annotation_app import exchange
from annotation_app.models import Run
from rlhf_loop.round import STAGES
from tests.annotation_app.ended import ended
from tests.annotation_app.played import (
    BUILT,
    PPO_RESULT,
    REJECTION_RESULT,
    begun,
    played,
    ppo_lines,
    rejection_lines,
    stage,
)
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import text

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


def shown(client, round_, name: str = "") -> str:
    address = reverse("round_stage", args=[round_.pk, name]) if name else f"/rounds/{round_.pk}"
    return text(client.get(address))


def drawn(page: str) -> set[str]:
    return set(re.findall(r'data-figure="([^"]+)"', page))


def poll(client, page: str):
    """What htmx asks for next, by the page's own address."""
    address = re.search(r'hx-get="([^"]+)"', page)[1].replace("&amp;", "&")
    return client.get(address, headers={"HX-Request": "true"})


# --- the stepper ---------------------------------------------------------------------------------


def test_it_works(as_alice):
    page = shown(as_alice, played())
    assert re.findall(r'<li class="step (\w+)">', page) == ["succeeded"] * 3
    assert page.count('aria-current="step"') == 1
    assert '<h2 id="stage">Evaluation</h2>' in page
    assert {"scores", "differences", "refusals"} <= drawn(page)
    assert "Read answers before and after" in page
    assert "hx-get" not in page


def test_every_step_opens_its_own_figures(as_alice):
    round_ = played()
    assert {"best-of", "loss", "truncated"} <= drawn(shown(as_alice, round_, "rejection"))
    ppo = shown(as_alice, round_, "ppo")
    assert {"deciding", "kl", "clipped", "whitening", "value-error", "length"} <= drawn(ppo)
    assert "Ended after 20 iterations by early stopping" in ppo
    for name in drawn(ppo):
        assert f'<script id="{name}" type="application/json">' in ppo, name


def test_stages_that_build_data_and_measure_instructions(as_alice):
    round_ = begun(*STAGES)
    for name, left in BUILT.items():
        stage(round_, name, *left, total=2)
    ghost = shown(as_alice, round_, "ghost_attention")
    assert "<h3>Ghost Attention</h3>" in ghost
    assert "builds dialogues that keep an instruction" in ghost
    assert "44 of 64 dialogues can be learnt from." in ghost
    assert drawn(ghost) == {"kept"}
    distilled = shown(as_alice, round_, "context_distillation")
    assert "the gate refused 11, and 4 were cut or empty." in distilled
    assert drawn(distilled) == {"kept", "gain"}
    keeping = shown(as_alice, round_, "instruction_keeping")
    assert drawn(keeping) == {"keeping"}
    assert "<td>66.0\u00a0%</td>" in keeping
    file = as_alice.get(reverse("stage_table", args=[round_.pk, "instruction_keeping", "keeping"]))
    assert rows(file)[-1][:3] == ["20", "0.02", "0.66"]


@pytest.mark.parametrize(
    ("day", "says"),
    [(1, "begun 1 Nov 2026 10:00 UTC, ended 11:00."),
     (3, "begun 1 Nov 2026 10:00 UTC, ended 3 Nov 2026 11:00.")],
)  # fmt: skip
def test_a_stage_that_ended_on_another_day_says_which(as_alice, day, says):
    began, ended_at = datetime(2026, 11, 1, 10, tzinfo=UTC), datetime(2026, 11, day, 11, tzinfo=UTC)
    round_ = ended()
    Run.objects.create(
        kind="evaluate", state="succeeded", round=round_, started_at=began, ended_at=ended_at
    )
    page = as_alice.get(reverse("round_stage", args=[round_.pk, "evaluate"])).content.decode()
    assert says in page


def test_a_stage_that_has_not_begun_says_so(as_alice):
    round_ = begun(*STAGES)
    for name in STAGES:
        assert "It has not begun: stages run one after the other." in shown(as_alice, round_, name)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("queued", "It waits for a free worker."),
        ("running", "It has logged no figure yet"),
        ("succeeded", "It has left no figures."),
        ("failed", "It ended before it had logged a figure"),
        ("cancelled", "It ended before it had logged a figure"),
    ],
)
def test_a_stage_without_figures_says_why(as_alice, state, sentence):
    round_ = begun()
    run = stage(round_, "rejection")
    Run.objects.filter(pk=run.pk).update(state=state)
    assert sentence in shown(as_alice, round_)


def test_a_stage_that_the_round_has_not_is_not_there(as_alice):
    round_ = begun()
    for name in ("sft", "sampling", "nonsense"):
        assert as_alice.get(reverse("round_stage", args=[round_.pk, name])).status_code == 404
    assert as_alice.get("/rounds/999").status_code == 404


def test_nobody_else_sees_it(client, bob, rita, dora):
    round_ = played()
    addresses = [
        reverse("round", args=[round_.pk]),
        reverse("round_stage", args=[round_.pk, "ppo"]),
        reverse("stage_table", args=[round_.pk, "ppo", "kl"]),
    ]
    for who, status in ((bob, 403), (rita, 403), (dora, 200)):
        client.force_login(who)
        assert [client.get(it).status_code for it in addresses] == [status] * 3, who
    client.logout()
    assert [client.get(it).status_code for it in addresses] == [302] * 3


# --- as it goes ----------------------------------------------------------------------------------


def log(run: Run, lines, total: int = 20) -> None:
    for line in lines:
        exchange.run_folder(run).log_metrics(total=total, **line)
        Run.objects.filter(pk=run.pk).update(step=line["step"], total_steps=total)


def test_the_page_follows_the_round(as_alice):
    round_ = begun()
    stage(round_, "rejection", rejection_lines(), REJECTION_RESULT)
    run = stage(round_, "ppo", ppo_lines(3))
    page = shown(as_alice, round_)
    assert '<h2 id="stage">PPO</h2>' in page
    assert "3 of 20" in page
    assert poll(as_alice, page).status_code == 204  # nothing has changed: nothing is sent
    log(run, ppo_lines(4)[-1:])
    live = poll(as_alice, page)
    assert "HX-Refresh" not in live.headers
    assert "4 of 20" in text(live)
    assert '<script id="kl" type="application/json">' in text(live)
    numbers = text(live).split('id="numbers-kl"')[1].split("</div>")[0]
    assert 'hx-swap-oob="true"' in numbers
    assert "<td>4</td>" in numbers
    assert "<h1>" not in text(live)


def test_it_is_loaded_anew_when_other_figures_have_come_or_the_stage_has_ended(as_alice):
    round_ = begun()
    run = stage(round_, "rejection", [])
    page = shown(as_alice, round_)
    log(run, rejection_lines()[:1], total=8)
    assert poll(as_alice, page).headers["HX-Refresh"] == "true"
    page = shown(as_alice, round_)
    run.succeed()
    assert poll(as_alice, page).headers["HX-Refresh"] == "true"
    page = shown(as_alice, round_)
    stage(round_, "ppo", [])
    assert poll(as_alice, page).headers["HX-Refresh"] == "true"


def test_a_stage_that_was_asked_for_stays(as_alice):
    round_ = begun()
    run = stage(round_, "rejection", rejection_lines(), REJECTION_RESULT)
    page = shown(as_alice, round_, "rejection")
    stage(round_, "ppo", ppo_lines(2))
    live = poll(as_alice, page)
    assert live.status_code == 200
    assert "HX-Refresh" not in live.headers
    assert '<script id="best-of"' not in text(live)
    assert run.state == "succeeded"


def test_the_end_of_the_round_brings_its_buttons(as_alice):
    round_ = begun()
    stage(round_, "rejection", rejection_lines())
    page = shown(as_alice, round_)
    round_.fail("Rejection sampling #1: no space.")
    live = poll(as_alice, page)
    assert live.headers["HX-Refresh"] == "true"
    assert "no space" in text(live)
    assert "HX-Request" in live.headers["Vary"]


def test_queries(as_alice, django_assert_max_num_queries):
    round_ = begun(*STAGES)
    for name in STAGES[:6]:
        stage(round_, name, [], {"model": "model"})
    stage(round_, "ppo", ppo_lines(20))
    page = shown(as_alice, round_)
    with django_assert_max_num_queries(6):
        shown(as_alice, round_)
    with django_assert_max_num_queries(4):
        poll(as_alice, page)


# --- tables and files ----------------------------------------------------------------------------


def rows(answer) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text(answer))))


def test_every_plot_has_its_table_and_its_file(as_alice):
    round_ = played()
    for name in ("rejection", "ppo", "evaluate"):
        page = shown(as_alice, round_, name)
        assert drawn(page)
        for table in drawn(page):
            header, *found = rows(
                as_alice.get(reverse("stage_table", args=[round_.pk, name, table]))
            )
            assert found, table
            section = page.split(f'id="about-{table}"')[1].split("</section>")[0]
            assert section.count("<tr>") == len(found) + 1, table
            assert section.count('<th scope="col">') == len(header), table


def test_a_table_that_is_not_there(as_alice):
    round_ = played()
    for args in ((round_.pk, "ppo", "nonsense"), (round_.pk, "nonsense", "kl"), (999, "ppo", "kl")):
        assert as_alice.get(reverse("stage_table", args=args)).status_code == 404


def test_looking_changes_nothing(as_alice):
    round_ = played()
    before = (round_.state, Run.objects.count())
    assert as_alice.post(f"/rounds/{round_.pk}").status_code == 405
    shown(as_alice, round_, "ppo")
    round_.refresh_from_db()
    assert (round_.state, Run.objects.count()) == before


def test_names_of_models_are_no_markup(as_alice):
    round_ = played()
    round_.policy.name = "<script>alert(1)</script>"
    round_.policy.save()
    assert "<script>alert" not in shown(as_alice, round_)


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def window(page, live_server, client, alice):
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    return page


@pytest.mark.django_db(transaction=True)
def test_figures_grow_while_it_runs(window, live_server):
    round_ = begun()
    run = stage(round_, "ppo", ppo_lines(3))
    window.goto(f"{live_server.url}/rounds/{round_.pk}")
    drawn = "n => document.querySelector('[data-figure=kl]').data?.[0].x.length === n"
    window.wait_for_function(drawn, arg=3)
    details = window.locator("section.curve:has(#about-kl) details")
    details.locator("summary").click()
    log(run, ppo_lines(5)[-2:])
    window.wait_for_function(drawn, arg=5)
    assert details.get_attribute("open") is not None
    assert details.locator("tbody tr").last.inner_text().startswith("5")
    folder = exchange.run_folder(run)
    folder.write_result(PPO_RESULT)
    run.succeed()
    window.get_by_text("Ended after 20 iterations by early stopping").wait_for()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_axe_finds(window, live_server, scheme):
    round_ = played(ppo={"kl_budget": 5.0})
    window.emulate_media(color_scheme=scheme)
    for size in (PHONE, {"width": 1280, "height": 900}):
        window.set_viewport_size(size)
        for name in ("rejection", "ppo", "evaluate"):
            window.goto(live_server.url + reverse("round_stage", args=[round_.pk, name]))
            window.wait_for_function(
                "() => [...document.querySelectorAll('[data-figure]')].every(box => box.data)"
            )
            assert (violations(window), fits(window)) == ([], True), (name, size)


@pytest.mark.django_db(transaction=True)
def test_what_axe_finds_where_there_are_many_stages(window, live_server):
    round_ = begun(*STAGES)
    for name, left in BUILT.items():
        stage(round_, name, *left, total=2)
    for size in (PHONE, {"width": 1280, "height": 900}):
        window.set_viewport_size(size)
        for name in BUILT:
            window.goto(live_server.url + reverse("round_stage", args=[round_.pk, name]))
            window.wait_for_function(
                "() => [...document.querySelectorAll('[data-figure]')].every(box => box.data)"
            )
            assert (violations(window), fits(window)) == ([], True), (name, size)


@pytest.mark.django_db(transaction=True)
def test_by_keyboard(window, live_server):
    round_ = played()
    window.goto(f"{live_server.url}/rounds/{round_.pk}")
    window.get_by_role("link", name="PPO").focus()
    window.keyboard.press("Enter")
    window.get_by_role("heading", name="PPO", level=2).wait_for()
    assert "Divergence from the reference" in window.locator("main").inner_text()
