"""The pages around an annotator's work, on a desk and on a phone: what axe-core finds on them.

The pages of the work itself are looked at where their keys are tested.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation_app.models import Annotation, Organisation, Review, Skill
from tests.annotation_app.rows import comparison, open_batch
from tests.annotation_app.views.axe import PHONE, fits, violations

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["light", "dark"])
def look(request, page, live_server, client):
    """Go to a page, signed in as somebody or not, and say what is wrong with it."""

    def go(address: str, who=None, says: str = "", press: str = "") -> None:
        page.context.clear_cookies()
        if who is not None:
            client.force_login(who)
            cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
            page.context.add_cookies([{**cookie, "url": live_server.url}])
        for size in (PHONE, {"width": 1280, "height": 900}):
            page.set_viewport_size(size)
            page.goto(live_server.url + address)
            if press:  # past the browser's own bubbles, which come before the server's sentences
                page.evaluate("for (const form of document.forms) form.noValidate = true")
                page.get_by_role("button", name=press).click()
                page.wait_for_load_state()
            assert says in page.locator("body").inner_text(), address
            assert (violations(page), fits(page)) == ([], True), (address, size)

    page.emulate_media(color_scheme=request.param)
    return go


def test_of_signing_in_and_ones_own_choices(look, bob):
    look(reverse("sign_in"))
    look(reverse("sign_in"), press="Sign in", says="required")
    look(reverse("set_password"), bob)
    look(reverse("set_password"), bob, press="Save", says="required")
    look(reverse("preferences"), bob)
    look(reverse("sign_in_link", args=["none", "none"]), says="has run out")
    look("/nothing-here", bob)
    look(reverse("team"), bob, says="role")


def test_of_nothing_to_do(look, bob, alice):
    address = reverse("annotate_next", args=["safety"])
    look(reverse("annotate"), bob)
    look(address, bob, says="No safety batch is open now")
    batch = open_batch("safety", comparisons=0)
    look(address, bob, says="no comparisons yet")
    comparison(batch, "Q?")
    held = Annotation.objects.lease_next(alice, batch)
    look(address, bob, says="reserved by others")
    held.record(choice="a", strength="better", a_safe=True, b_safe=True)
    look(address, bob, says="Thank you")
    batch.required_skills.add(Skill.objects.create(name="Medicine"))
    look(address, bob, says="Medicine")
    batch.required_skills.clear()
    Organisation.objects.update_or_create(pk=1, defaults={"safety_daily_cap": 0})
    look(address, bob, says="enough for one day")
    bob.does_safety = False
    bob.save()
    look(address, bob, says="not to do safety work")
    bob.paused_reason = "Clicks at random."
    bob.save()
    look(address, bob, says="Clicks at random.")


def test_of_what_is_judged_already(look, bob, rita):
    batch = open_batch(comparisons=1)
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(choice="a", strength="better")
    look(reverse("annotation", args=[annotation.pk]), bob, says="already recorded")
    look(reverse("revise", args=[annotation.pk]), bob, says="Submit")
    Review.send_back(annotation, rita, "Read the second sentence.")
    look(reverse("revise", args=[annotation.pk]), bob, says="Read the second sentence.")
    look(reverse("my_work"), bob, says="Read the second sentence.")
    Annotation.objects.update(recorded_at=timezone.now() - timedelta(days=1))
    look(reverse("annotate_next", args=["helpfulness"]), bob, says="Thank you")
