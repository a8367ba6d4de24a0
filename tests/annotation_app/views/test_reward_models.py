"""/rewards and /rewards/<pk>: figures, tables, CSV, and the most confident mistakes as text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.urls import reverse

from annotation_app.models import Checkpoint, Organisation, Promotion
from reward.preferences import Message
from tests.annotation_app.trained import evaluated, held_out, trained
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import rows, text
from tests.reward.pairs import pair

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


def mistakes(client, checkpoint: Checkpoint, **query: str) -> str:
    return text(client.get(reverse("mistakes", args=[checkpoint.pk]), query))


# --- the page ------------------------------------------------------------------------------------


def test_it_works(as_alice):
    found = trained(learning_rate=3e-5)
    page = text(as_alice.get(reverse("reward_model", args=[found.pk])))
    assert "10 comparisons in 30 steps, starting from starter; 1 was too long" in page
    assert "collected, helpfulness</th><td>8</td>" in page
    assert "learning rate</th><td>0.00003</td><td>0.00001</td>" in page
    assert "c0ffee" in page
    assert "torch 2.13" in page
    assert found.sha256 in page
    assert "Accuracy by strength" in page
    assert "On 60 comparisons." in page


def test_every_plot_has_its_table_and_its_file(as_alice):
    found = trained()
    page = text(as_alice.get(reverse("reward_model", args=[found.pk])))
    names = [part.partition('"')[0] for part in page.split('data-figure="')[1:]]
    assert {"by-strength", "by-batch", "calibration-bins", "score-histogram"} <= set(names)
    for name in names:
        table = rows(as_alice.get(reverse("reward_table", args=[found.pk, name])))
        assert table, name
        if "Accuracy" not in table[0]:
            continue
        assert sum(int(row["Comparisons"]) for row in table) == 60, name
        for row in table:
            assert f"{100 * float(row['Accuracy']):.1f}\u00a0%" in page, name


def test_what_nobody_labelled_has_no_figure(as_alice):
    helpful, safe = trained(), trained("safety")
    assert "safety bin" not in text(as_alice.get(reverse("reward_model", args=[helpful.pk])))
    assert "safety bin" in text(as_alice.get(reverse("reward_model", args=[safe.pk])))


def test_one_that_was_brought_in(as_alice):
    found = Checkpoint.objects.create(
        kind="safety_reward", name="Foreign", line="tiny", storage_key="foreign"
    )
    page = text(as_alice.get(reverse("reward_model", args=[found.pk])))
    assert "nothing is known here about their training" in page
    assert "no safety comparison was held out when it was trained" in page
    assert "no held-out comparison was scored with it here" in page
    assert "was scored with it here" in mistakes(as_alice, found)


def test_one_whose_run_left_no_scores(as_alice, tmp_path):
    found = trained()
    (tmp_path / found.run.storage_key / "scores.jsonl").unlink()
    assert "left no scores of held-out comparisons" in mistakes(as_alice, found)
    assert rows(as_alice.get(reverse("mistakes_csv", args=[found.pk]))) == []


def test_without_any_held_out_pair(as_alice):
    found = trained(held=[])
    assert "was held out when it was trained" in text(
        as_alice.get(reverse("reward_model", args=[found.pk]))
    )
    assert "There is none" in mistakes(as_alice, found)


def test_what_there_is_not(as_alice):
    found = trained()
    chat = Checkpoint.objects.chat().first()
    for name, args in [
        ("reward_model", [999]), ("reward_model", [chat.pk]), ("mistakes", [chat.pk]),
        ("mistakes_csv", [chat.pk]), ("reward_table", [found.pk, "by-nothing"]),
        ("newest_table", ["accuracy"]),
    ]:  # fmt: skip
        assert as_alice.get(reverse(name, args=args)).status_code == 404, name


def test_researchers_only(as_rita):
    found = trained()
    for name in ("reward_model", "mistakes", "mistakes_csv"):
        assert as_rita.get(reverse(name, args=[found.pk])).status_code == 403
    assert as_rita.get(reverse("reward_table", args=[found.pk, "by-batch"])).status_code == 403


def test_it_costs_the_same_for_any_number_of_models(as_alice, django_assert_max_num_queries):
    models = [trained() for _ in range(5)]
    for model in models[:3]:
        Promotion.promote(model)
    evaluated(models[:2])
    with django_assert_max_num_queries(12):
        as_alice.get(reverse("rewards"))
    with django_assert_max_num_queries(12):
        as_alice.get(reverse("reward_model", args=[models[0].pk]))
    with django_assert_max_num_queries(8):
        mistakes(as_alice, models[0])


def test_the_newest_ones_as_a_file(as_alice):
    for _ in range(2):
        trained()
    found = rows(as_alice.get(reverse("newest_table", args=["by-batch"])))
    assert [(row["Batch"], row["Comparisons"]) for row in found] == [
        ("Week 0", "30"), ("Week 1", "30")
    ] * 2  # fmt: skip


# --- mistakes ------------------------------------------------------------------------------------


def test_the_worst_come_first(as_alice):
    found = trained()
    table = rows(as_alice.get(reverse("mistakes_csv", args=[found.pk])))
    by = [float(row["Rejected scores higher by"]) for row in table]
    assert by == sorted(by, reverse=True)
    assert by[-1] > 0
    page = mistakes(as_alice, found)
    assert "Held-out comparisons only (60 of helpfulness)" in page
    assert f"1. The rejected response scores {by[0]:.4g} higher" in page
    assert page.count('class="card mistake"') == 10
    assert mistakes(as_alice, found, page="2").count('class="card mistake"') == len(by) - 10
    assert "11. The rejected" in mistakes(as_alice, found, page="2")


def test_a_hundred_at_most(as_alice):
    found = trained(held=held_out(count=600))
    assert len(rows(as_alice.get(reverse("mistakes_csv", args=[found.pk])))) == 100
    assert "100 mistakes" in mistakes(as_alice, found)


def test_how_the_annotators_decided(as_alice):
    said = "2 preferred the chosen response (better, slightly better), 1 preferred the rejected one"
    table = rows(as_alice.get(reverse("mistakes_csv", args=[trained().pk])))
    assert said in {row["Annotators"] for row in table}
    assert "no single judgement is known" in {row["Annotators"] for row in table}


def test_of_one_strength(as_alice):
    found = trained()
    page = mistakes(as_alice, found, strength="slightly_better")
    assert "Slightly better;" in page
    assert "Significantly better;" not in page
    query = {"strength": "slightly_better"}
    table = rows(as_alice.get(reverse("mistakes_csv", args=[found.pk]), query))
    assert {row["Strength"] for row in table} == {"slightly_better"}


@pytest.mark.parametrize("strength", ["x", "<script>", "9" * 5_000])
def test_of_a_strength_that_there_is_not(as_alice, strength):
    found = trained()
    answer = as_alice.get(reverse("mistakes", args=[found.pk]), {"strength": strength})
    assert answer.status_code == 400
    assert "There is no strength of that name." in text(answer)
    answer = as_alice.get(reverse("mistakes_csv", args=[found.pk]), {"strength": strength})
    assert answer.status_code == 404


@pytest.mark.parametrize("page", ["0", "-3", "x", "999999999999"])
def test_a_strange_page_is_the_first_or_the_last(as_alice, page):
    assert "The rejected response scores" in mistakes(as_alice, trained(), page=page)


def hostile() -> Checkpoint:
    """Half of its held-out pairs are wrong, and every text wants to be run."""
    evil = {
        "prompt": (Message("user", "=cmd|' /C calc'!A0 <script>alert(1)</script>"),),
        "chosen": "@SUM(1)<img src=x onerror=alert(1)>",
        "rejected": "+1 [x](javascript:alert(1))",
        "batch": "=1+1",
        "source": "<b>x</b>",
    }
    return trained(held=[replace(pair(n), **evil) for n in range(30)])


def test_texts_of_strangers_are_texts(as_alice):
    found = hostile()
    page = mistakes(as_alice, found)
    assert "&lt;script&gt;alert(1)" in page
    for bad in ("<script>alert", "<img src=x", 'href="javascript'):
        assert bad not in page
    page = text(as_alice.get(reverse("reward_model", args=[found.pk])))
    assert "<b>x</b>" not in page


def test_a_spreadsheet_runs_nothing(as_alice):
    found = hostile()
    mistaken = rows(as_alice.get(reverse("mistakes_csv", args=[found.pk])))
    assert len(mistaken) == 10
    for row in mistaken:
        assert row["Batch"] == "'=1+1"
        assert row["Chosen"].startswith("'@SUM")
        assert row["Rejected"].startswith("'+1")
        assert row["Prompt"].startswith("user: =cmd")
        float(row["Score of chosen"])  # a negative number stays one
    table = rows(as_alice.get(reverse("reward_table", args=[found.pk, "by-batch"])))
    assert [row["Batch"] for row in table] == ["'=1+1"]


def test_safety_texts_are_veiled_until_asked_for(as_alice):
    found = trained("safety")
    page = mistakes(as_alice, found)
    assert "Show the texts" in page
    assert "Gladly" not in page
    assert "Gladly" in mistakes(as_alice, found, show="1")
    assert "show=1" in mistakes(as_alice, found, show="1").partition('aria-label="Pages"')[2]
    Organisation.objects.update_or_create(pk=1, defaults={"safety_is_veiled": False})
    assert "Gladly" in mistakes(as_alice, found)


def test_a_comparison_of_ours_is_linked(as_alice):
    found = trained(held=[replace(pair(n), id=f"comparison-{n}") for n in range(1, 31)])
    worst = rows(as_alice.get(reverse("mistakes_csv", args=[found.pk])))[0]["Id"]
    number = worst.removeprefix("comparison-")
    assert f'<a href="/comparisons/{number}">Comparison {number}</a>' in mistakes(as_alice, found)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(page, live_server, client, alice, scheme):
    first, second, safe = trained(), trained(), trained("safety")
    Promotion.promote(first, alice)
    Promotion.promote(second, alice)
    done = evaluated([first, second])
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme=scheme)
    addresses = [
        reverse("rewards"), reverse("reward_model", args=[first.pk]),
        reverse("mistakes", args=[first.pk]), reverse("mistakes", args=[safe.pk]),
        reverse("retraining", args=["safety"]), reverse("promotion", args=[first.pk]),
        reverse("rolling_back", args=["helpfulness"]), reverse("run", args=[first.run_id]),
        reverse("reward_evaluation", args=[done.pk]),
    ]  # fmt: skip
    for address in addresses:
        for size in (PHONE, {"width": 1280, "height": 900}):
            page.set_viewport_size(size)
            page.goto(live_server.url + address)
            for figure in page.locator("[data-figure]").all():
                figure.locator("svg.main-svg").first.wait_for()
            assert (violations(page), fits(page)) == ([], True), (address, size)
