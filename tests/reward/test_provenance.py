"""What a run was made of is written down, and a resumed run must find the same."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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


def test_the_threads_are_those_that_torch_computes_on(pairs):
    """Which is not what the environment says once they were set."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert provenance({})["threads"] == "3"
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def code(tmp_path):
    """A repository with both packages, and what names the commit of a copy of them."""

    def git(*words):
        signed = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *signed, *words], check=True)

    for name in ("reward", "rlhf_loop"):
        (tmp_path / name).mkdir()
        shutil.copy(Path(sys.modules[provenance.__module__].__file__), tmp_path / name)
    git("init", "-q")

    def commit():
        spec = importlib.util.spec_from_file_location("copied", tmp_path / "reward/provenance.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.provenance({})["commit"]

    return SimpleNamespace(path=tmp_path, git=git, commit=commit)


def test_changed_code_of_the_loop_is_no_clean_commit(code):
    code.git("add", "-A")
    code.git("commit", "-q", "-m", "first")
    clean = code.commit()
    assert len(clean) == 40
    (code.path / "rlhf_loop" / "provenance.py").write_text("changed = True\n")
    assert code.commit() == clean + "+"


def test_the_commit_of_a_repository_that_only_surrounds_the_code_is_not_named(code):
    (code.path / "own.txt").write_text("own")
    code.git("add", "own.txt")
    code.git("commit", "-q", "-m", "first")
    assert code.commit() is None


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
    folder.begin()
    folder.write_provenance({"pairs": pairs, "holdout": None})
    assert folder.provenance_file.read_text() == written
    pairs.write_text("another line\n")
    with pytest.raises(ValueError, match=r"pairs \(.*pairs.jsonl\) has changed since .*run began"):
        folder.write_provenance({"pairs": pairs, "holdout": None})
    assert folder.provenance_file.read_text() == written


def test_other_versions_on_the_way_are_added(tmp_path, pairs):
    folder = RunFolder(tmp_path)
    folder.write_provenance({"pairs": pairs})
    folder.begin()
    stored = json.loads(folder.provenance_file.read_text())
    stored["versions"]["torch"] = "1.0"
    folder.provenance_file.write_text(json.dumps(stored))
    folder.write_provenance({"pairs": pairs})
    now = json.loads(folder.provenance_file.read_text())
    assert now["versions"]["torch"] == "1.0"
    assert now["later"][0]["versions"]["torch"] != "1.0"
