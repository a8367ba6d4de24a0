"""A click becomes a PPO step: one walk through the whole loop, with every real part.

A browser, the web server, the embedded Redis, Celery workers and beat, the sampler and the
training processes run as `make run` starts them, and Redis is emptied on the way. At the end the
new chat model's lineage gives back exactly the annotations that were clicked, and the next batch
is filled by it.
"""

from __future__ import annotations

import pytest

from tests.platform import Platform, running_platform

SIZES = {
    "prompt_set": {"train": 64, "validation": 24, "test": 192},
    "reward_training": {
        "learning_rate": 1e-3,
        "pairs_per_step": 8,
        "epochs": 3,
        "checkpoint_every_steps": 2,
    },
    "round": {
        "max_new_tokens": 40,
        "rejection": {"samples": 16, "learning_rate": 1e-3, "epochs": 3, "batch": 16},
        "ppo": {"iterations": 18, "batch": 32, "minibatch": 16, "learning_rate": 3e-4,
                "validate_every": 3, "validation_prompts": 24},
    },
    "sampling": {"comparisons": 24, "max_new_tokens": 40},
}  # fmt: skip
FEWEST = 16  # comparisons whose two answers differ
WRITTEN = {
    "helpfulness": ["What is the warranty of my kettle?", "And of the toaster?"],
    "safety": ["Is my kettle safe?"],
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with running_platform(tmp_path_factory.mktemp("platform"), SIZES) as platform:
        yield platform


def sign_in(page, platform: Platform) -> None:
    page.goto(platform.sign_in_link)
    page.get_by_role("button", name="Sign in").click()
    for name in ("new_password1", "new_password2"):
        page.fill(f"[name={name}]", "a long and rare password")
    page.locator("main button").click()
    page.wait_for_url("**/batches")


def judge(page, criterion: str) -> None:
    """One comparison by keys alone: the longer text is better, and both are safe."""
    number = page.locator("[data-annotation]").get_attribute("data-annotation")
    texts = [page.locator(f"[data-part={side}]").text_content() for side in ("left", "right")]
    page.keyboard.press("2" if len(texts[0]) >= len(texts[1]) else "7")
    if criterion == "safety":
        page.keyboard.press("b")  # show the texts
        page.keyboard.press("w")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "n => document.querySelector('[data-annotation]')?.dataset.annotation !== n", arg=number
    )


def send(page) -> None:
    """Send the message, and once more where models as small as these give one answer for two."""
    refusal = page.locator("#error:visible")
    for _ in range(5):
        page.locator("textarea").press("Control+Enter")
        judging = page.locator("#judgement").or_(refusal)
        judging.first.wait_for(timeout=60_000)
        if not refusal.count():
            page.wait_for_url("**/annotations/*")  # and for the scripts that hear the keys
            return
        assert "identical answers" in refusal.inner_text()
    raise AssertionError("five times in a row the two models gave one answer")


def converse(page, platform: Platform, criterion: str) -> None:
    """A live dialogue: two models answer through the live process, and the choice goes on."""
    page.goto(f"{platform.url}/annotate/{criterion}/dialogue")
    for message in WRITTEN[criterion]:
        page.locator("#send:enabled").wait_for()
        page.fill("textarea", message)
        send(page)
        assert message in page.locator("[data-part=prompt]").text_content()
        judge(page, criterion)
        page.wait_for_url("**/dialogues/*")


def judge_batch(page, platform: Platform, criterion: str) -> None:
    """Judge the turns of a dialogue, then the whole batch."""
    converse(page, platform, criterion)
    page.goto(f"{platform.url}/annotate/{criterion}")
    while page.locator("#judgement").count():
        judge(page, criterion)


def press(page, address: str, name: str) -> None:
    page.goto(address)
    page.get_by_role("button", name=name).first.click()
    page.wait_for_load_state()
    assert page.locator(".refusal").count() == 0, page.locator("main").inner_text()


def test_one_comparison(platform: Platform, page):
    # a click: sign in once, hold a dialogue, judge both batches
    sign_in(page, platform)
    for criterion in ("helpfulness", "safety"):
        judge_batch(page, platform, criterion)
    clicked = set(platform.rows("list(Annotation.objects.work().values_list('pk', flat=True))"))
    asked = platform.rows("Comparison.objects.usable().count()")
    turns = platform.rows("list(Prompt.objects.filter(turn=2).values_list('parent', flat=True))")
    assert len(turns) == 1
    assert turns[0] is not None
    assert len(clicked) == asked > FEWEST

    # closing asks for training; a broker that forgets everything loses no work
    batches = platform.rows("list(Batch.objects.open().values_list('pk', flat=True))")
    for batch in batches:
        press(page, f"{platform.url}/batches", "Close")
        platform.redis().flushall()
        platform.wait_for(
            lambda pk=batch: platform.rows("Batch.objects.open().count()") < len(batches), "closing"
        )
    done = "Checkpoint.objects.rewards().count()"
    platform.wait_for(lambda: platform.rows(done) == 2, "two reward models", 300)
    for checkpoint in platform.rows("[c.pk for c in Checkpoint.objects.rewards()]"):
        press(page, f"{platform.url}/rewards/{checkpoint}/promotion", "Promote")
        measured = platform.rows(f"Checkpoint.objects.get(pk={checkpoint}).metrics['count']")
        read = f"Snapshot.objects.get(used_by__run__checkpoint={checkpoint})"
        assert measured == platform.rows(f"{read}.held_out")

    # a round from a button: rejection sampling, PPO, evaluation
    press(page, f"{platform.url}/rounds", "Start")
    platform.wait_for(
        lambda: platform.rows("Round.objects.get().state") not in ("queued", "running"),
        "the round", 480,
    )  # fmt: skip
    state, error = platform.rows("[Round.objects.get().state, Round.objects.get().error]")
    assert (state in ("evaluated", "held"), error) == (True, "")

    # the new chat model comes from exactly what was clicked, and scores higher than the start
    read = "annotations_of(lineage(Round.objects.get().result).snapshots)"
    assert set(platform.rows(f"list({read}.values_list('pk', flat=True))")) == clicked
    judged = platform.rows("Round.objects.get().evaluation['all']")
    assert judged["count"] == SIZES["prompt_set"]["test"]
    assert judged["combined"]["low"] > 0, judged

    # release: the next drafts hold one answer of the new model and one of the previous
    if state == "held":  # so small a round may fail its gate
        page.goto(f"{page.url}/releasing")
        page.locator("textarea").fill("To see the whole path.")
        page.get_by_role("button", name="Release").click()
        page.wait_for_load_state()
    else:
        press(page, page.url, "Release")
    platform.wait_for(
        lambda: platform.rows("Batch.objects.filter(week=2, is_filled=True).count()") == 2,
        "the next batches", 240,
    )  # fmt: skip
    new, old = platform.rows("[Round.objects.get().result.pk, Round.objects.get().policy.pk]")
    pairs = platform.rows(
        "[[c.response_a.checkpoint_id, c.response_b.checkpoint_id]"
        " for c in Comparison.objects.filter(batch__week=2)]"
    )
    assert pairs
    assert all(sorted(pair) == sorted([new, old]) for pair in pairs)
