"""/exports: what each file holds, and that the real commands read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.urls import reverse

from annotation_app.exports import FILES
from annotation_app.models import Annotation, Demonstration, DialogueRoot, Person, Prompt, Remark
from annotation_app.snapshots import annotator_hash
from reward.preferences import Message
from tests.annotation_app.rows import comparison, open_batch, released_chat_model

pytestmark = pytest.mark.django_db
CHAT_MODEL = Path(__file__).parents[3] / "demo" / "checkpoints" / "starter-a"
TRAIN, HELD_OUT = "Which kettle is train?", "Which kettle is held out?"


@pytest.fixture(autouse=True)
def split(db):
    """Two requests whose side is known; every other one falls into train."""
    DialogueRoot.of([Message("user", TRAIN)], "train")
    DialogueRoot.of([Message("user", HELD_OUT)], "holdout")


@pytest.fixture
def no_chance(settings):
    settings.HOLDOUT_SHARE = 0.0


def download(client, name: str) -> list[dict]:
    answer = client.get(reverse("export", args=[name]))
    assert answer.streaming
    assert f'filename="{name}"' in answer.headers["Content-Disposition"]
    return [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]


def remarked(person, batch, choice: str, **remark) -> Annotation:
    annotation = Annotation.objects.lease_next(person, batch)
    annotation.record(choice=choice, strength="better")
    Remark.leave(annotation.pk, remark)
    return annotation


def counts(client) -> dict[str, int]:
    page = client.get(reverse("exports"))
    return {name: count for name, _, count in page.context["files"]}


def test_it_works(as_alice, alice, bob):
    for text in (TRAIN, HELD_OUT):
        Demonstration.write(bob, "helpfulness", text, "This one.").approve(alice)
    Demonstration.write(bob, "helpfulness", TRAIN, "That one.")
    Demonstration.write(bob, "helpfulness", TRAIN, "None.").reject(alice, "Wrong.")
    page = as_alice.get(reverse("exports")).content.decode()
    assert "1 demonstration waits for a reviewer" in page
    (record,) = download(as_alice, "demonstrations.jsonl")
    assert record["messages"] == [
        {"role": "user", "content": TRAIN},
        {"role": "assistant", "content": "This one."},
    ]
    assert (record["split"], record["corrects"], record["edited"]) == ("train", None, False)
    assert record["answers"] == "last"
    assert record["annotator"] == annotator_hash(bob.pk)
    (held_out,) = download(as_alice, "demonstrations-holdout.jsonl")
    assert held_out["messages"][0]["content"] == HELD_OUT
    assert counts(as_alice)["demonstrations.jsonl"] == 1


def test_a_held_out_request_typed_differently_stays_held_out(as_alice, alice, bob):
    Demonstration.write(bob, "safety", "which KETTLE\n is held out?", "This.").approve(alice)
    assert download(as_alice, "demonstrations.jsonl") == []
    assert len(download(as_alice, "demonstrations-holdout.jsonl")) == 1


def test_a_corrected_answer_goes_where_its_dialogue_went(as_alice, alice, bob):
    batch = open_batch(comparisons=0)
    for text in (TRAIN, HELD_OUT):
        found = comparison(batch, text)
        written = Demonstration.correct(bob, "helpfulness", found.response_a, f"Better: {text}")
        written.approve_edited(alice, f"Best: {text}")
    (record,) = download(as_alice, "demonstrations.jsonl")
    assert record["messages"][-1]["content"] == f"Best: {TRAIN}"
    assert (record["corrects"], record["edited"]) == ("Two years.", True)
    (record,) = download(as_alice, "demonstrations-holdout.jsonl")
    assert record["messages"][-1]["content"] == f"Best: {HELD_OUT}"


def test_every_split_has_its_file(as_alice, alice, bob):
    for number in range(60):
        Demonstration.write(bob, "helpfulness", f"Question {number}?", "So.").approve(alice)
    train = download(as_alice, "demonstrations.jsonl")
    held_out = download(as_alice, "demonstrations-holdout.jsonl")
    assert len(train) + len(held_out) == 60
    roots = dict(DialogueRoot.objects.values_list("hash", "split"))
    assert {roots[r["root"]] for r in train} == {"train"}
    assert {roots[r["root"]] for r in held_out} <= {"holdout"}


def test_the_real_command_reads_demonstrations(as_alice, alice, bob, tmp_path):
    Demonstration.write(bob, "helpfulness", TRAIN, "This one, “the big” one.").approve(alice)
    Demonstration.write(bob, "safety", TRAIN, "No.\n\nNever.", "", "logic").approve(alice)
    answer = as_alice.get(reverse("export", args=["demonstrations.jsonl"]))
    (tmp_path / "data.jsonl").write_bytes(b"".join(answer.streaming_content))
    command = [
        sys.executable, "-m", "rlhf_loop.sft", "--data", str(tmp_path / "data.jsonl"),
        "--model", str(CHAT_MODEL), "--out", str(tmp_path / "run"),
        "--epochs", "1", "--batch", "2", "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(command, text=True, capture_output=True)
    assert "fine-tuned on 2 answers, 0 were too long" in done.stdout, done.stderr[-2000:]


def test_ratings(as_alice, bob, charlie, no_chance):
    batch = open_batch(overlap=2, comparisons=0)
    found = comparison(batch, HELD_OUT)
    release = released_chat_model("starter")
    found.response_a.checkpoint = release.checkpoint
    found.response_a.save()
    remarked(bob, batch, "a", a_rating=6, b_rating=2)
    remarked(charlie, batch, "a", b_rating=3)
    records = download(as_alice, "ratings.jsonl")
    assert counts(as_alice)["ratings.jsonl"] == len(records) == 3
    assert records[0] == {
        "prompt": [{"role": "user", "content": HELD_OUT}],
        "response": "Two years.",
        "rating": 6,
        "scale": [1, 7],
        "criterion": "helpfulness",
        "annotator": annotator_hash(bob.pk),
        "comparison": f"comparison-{found.pk}",
        "batch": batch.name,
        "checkpoint": "starter",
        "split": "holdout",
    }
    rest = [(r["response"], r["rating"], r["annotator"], r["checkpoint"]) for r in records[1:]]
    assert rest == [
        ("I do not know.", 2, annotator_hash(bob.pk), None),
        ("I do not know.", 3, annotator_hash(charlie.pk), None),
    ]


def test_comments(as_alice, bob, no_chance):
    batch = open_batch(comparisons=3)
    note = {"a_tags": ["useful"], "b_tags": ["incorrect"], "comment": "Line one.\nLine <two>."}
    remarked(bob, batch, "a", **note)
    remarked(bob, batch, "b", **note)
    remarked(bob, batch, "b", a_rating=4)
    first, second = download(as_alice, "comments.jsonl")
    assert counts(as_alice)["comments.jsonl"] == 2
    assert (first["chosen"], first["rejected"]) == ("Two years.", "I do not know.")
    assert (first["chosen_tags"], first["rejected_tags"]) == (["useful"], ["incorrect"])
    assert (second["chosen"], second["rejected"]) == ("I do not know.", "Two years.")
    assert (second["chosen_tags"], second["rejected_tags"]) == (["incorrect"], ["useful"])
    assert (first["comment"], first["split"]) == ("Line one.\nLine <two>.", "train")


@pytest.mark.parametrize(
    "change",
    [
        {"state": "superseded"}, {"state": "excluded"}, {"state": "surplus"},
        {"purpose": "reference", "slot": None}, {"purpose": "re-serve", "slot": None},
    ],
)  # fmt: skip
def test_only_what_may_become_a_pair_is_exported(as_alice, bob, change):
    annotation = remarked(bob, open_batch(), "a", a_rating=1, comment="Bad.")
    Annotation.objects.filter(pk=annotation.pk).update(**change)
    assert download(as_alice, "ratings.jsonl") == download(as_alice, "comments.jsonl") == []
    assert set(counts(as_alice).values()) == {0}


def test_nothing_yet(as_alice):
    page = as_alice.get(reverse("exports")).content.decode()
    assert page.count("none yet") == len(FILES)
    assert "No demonstration waits" in page


@pytest.mark.parametrize("name", ["demonstrations.json", "..%2Fsettings.py", "secret"])
def test_other_files_are_not_there(as_alice, name):
    assert as_alice.get(f"/exports/{name}").status_code == 404


@pytest.mark.parametrize("role", ["annotator", "reviewer"])
def test_only_researchers_export(client, db, role):
    client.force_login(Person.objects.create_user("someone", role=role))
    assert client.get(reverse("exports")).status_code == 403
    for name in FILES:
        assert client.get(reverse("export", args=[name])).status_code == 403


def test_exports_are_only_read(as_alice):
    assert as_alice.post(reverse("exports")).status_code == 405
    assert as_alice.post(reverse("export", args=["ratings.jsonl"])).status_code == 405


def test_models_are_in_no_demonstration_and_names_in_no_file(as_alice, alice, bob):
    batch = open_batch(comparisons=1)
    annotation = remarked(bob, batch, "a", a_rating=7, a_tags=["useful"], comment="Good.")
    response = annotation.comparison.response_a
    Demonstration.correct(bob, "helpfulness", response, "Better.").approve(alice)
    for name in FILES:
        answer = as_alice.get(reverse("export", args=[name]))
        content = b"".join(answer.streaming_content).decode()
        assert "bob" not in content
        assert "alice" not in content


def test_the_cost_does_not_grow_with_the_rows(as_alice, alice, bob, django_assert_max_num_queries):
    batch = open_batch(comparisons=12)
    for number in range(12):
        remarked(bob, batch, "ab"[number % 2], a_rating=1 + number % 7, comment="So.")
        Demonstration.write(bob, "helpfulness", TRAIN, f"So {number}.").approve(alice)
    assert Prompt.objects.count() == 24
    with django_assert_max_num_queries(8):
        as_alice.get(reverse("exports"))
    for name in FILES:
        with django_assert_max_num_queries(3):
            download(as_alice, name)
