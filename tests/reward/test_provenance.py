"""What a run was made of is written down, and a resumed run must find the same."""

from __future__ import annotations

import hashlib
import json

import pytest

from reward.provenance import digest, provenance
from reward.run_folder import RunFolder


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("one line\n")
    return file


def test_it_works(pairs):
    found = provenance({"pairs": pairs, "holdout": None})
    assert found["inputs"] == {"pairs": hashlib.sha256(b"one line\n").hexdigest()}
    assert found["versions"].keys() >= {"python", "torch", "transformers"}
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 40


def test_a_folder_is_its_names_and_contents(tmp_path):
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "a").write_text("x")
    before = digest(folder)
    assert digest(folder) == before
    (folder / "part" / "a").write_text("y")
    changed = digest(folder)
    (folder / "part" / "a").rename(folder / "part" / "b")
    assert len({before, changed, digest(folder)}) == 3


def test_a_run_that_goes_on_finds_what_it_began_with(tmp_path, pairs):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_provenance({"pairs": pairs, "holdout": None})
    written = folder.provenance_file.read_text()
    folder.rewind_metrics(0)  # as every command does when its work begins
    folder.write_provenance({"pairs": pairs, "holdout": None})
    assert folder.provenance_file.read_text() == written
    pairs.write_text("another line\n")
    with pytest.raises(ValueError, match=r"pairs \(.*pairs.jsonl\) has changed since .*run began"):
        folder.write_provenance({"pairs": pairs, "holdout": None})
    assert folder.provenance_file.read_text() == written


def test_other_versions_on_the_way_are_added(tmp_path, pairs):
    folder = RunFolder(tmp_path)
    folder.write_provenance({"pairs": pairs})
    folder.rewind_metrics(0)
    stored = json.loads(folder.provenance_file.read_text())
    stored["versions"]["torch"] = "1.0"
    folder.provenance_file.write_text(json.dumps(stored))
    folder.write_provenance({"pairs": pairs})
    now = json.loads(folder.provenance_file.read_text())
    assert now["versions"]["torch"] == "1.0"
    assert now["later"][0]["versions"]["torch"] != "1.0"
