"""Rows → frozen files, from the command line; what stands in them is tested where rows are made."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from annotation_app import snapshots
from annotation_app.models import Snapshot
from reward.preferences import read_pairs
from tests.annotation_app.ended import prompt_set
from tests.annotation_app.imports.files import HH_RLHF, import_file

pytestmark = pytest.mark.django_db


def test_it_works(capsys):
    import_file(HH_RLHF, "hh-rlhf", "safety", "Red team")
    capsys.readouterr()
    call_command("write_snapshot", "safety")
    folder = Path(capsys.readouterr().out.strip())
    counts = Snapshot.objects.get().counts
    assert counts["pairs"] == len(list(read_pairs(folder / "pairs.jsonl"))) > 1_000
    assert counts["holdout"] == len(list(read_pairs(folder / "holdout.jsonl"))) > 50


def test_nothing_to_train_on_is_one_sentence():
    with pytest.raises(CommandError, match="There is no safety comparison with a choice to train"):
        call_command("write_snapshot", "safety")
    assert not Snapshot.objects.exists()


@pytest.mark.parametrize(
    ("writer", "write"),
    [
        ("write_pairs", lambda: snapshots.write_snapshot("safety")),
        ("write_prompts", prompt_set),
    ],
)
def test_a_full_disk_is_left_as_it_was(storage_root, tmp_path, monkeypatch, writer, write):
    """It is tried again every few seconds: what is left each time would fill the room made."""
    import_file(HH_RLHF, "hh-rlhf", "safety", "Red team")
    plain = getattr(snapshots, writer)

    def full(path, records):
        plain(path, records)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, writer, full)
        with pytest.raises(OSError, match="No space left"):
            write()
    assert list(tmp_path.rglob("*.jsonl")) == []
    write()
    assert list(tmp_path.rglob("*.jsonl")) != []
