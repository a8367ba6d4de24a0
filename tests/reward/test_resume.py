"""A run that was killed, or whose disk was full or damaged, ends like one that nobody disturbed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from reward import train as training
from reward.config import TrainConfig
from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from reward.settings import from_mapping, to_flags, to_mapping
from reward.train import main, train
from tests.kill_reward_training import Training, inputs, prove
from tests.reward.pairs import pairs
from tests.reward.small_disks import NO_MOUNT, LimitedFiles, MountedDisk
from tests.tiny_models import tiny_chat_model


def test_three_kills_change_nothing(tmp_path):
    """The small form of ``make proof``: in a step, in the writing of a checkpoint, at the end."""
    wanted = Counter(step=1, checkpoint=1, model=1)
    findings = prove(tmp_path / "proof", "as it comes", wanted, random.Random())
    assert findings.faults == []
    assert not wanted - findings.kills


def test_the_proof_sees_a_difference(tmp_path):
    """A run that another seed began would be told from an undisturbed one."""
    given = inputs(tmp_path)
    one, other = (Training(tmp_path / name, given, "as it comes") for name in ("one", "other"))
    other.arguments += ["--seed", "1"]
    for run in (one, other):
        main(run.arguments[1:])
    ours, theirs = one.outcome(), other.outcome()
    assert [name for name in ours if ours[name] != theirs[name]][:2] == ["weights", "figures"]


# --- a run that stopped half-way ---------------------------------------------------------------


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def config(tmp_path, chat) -> TrainConfig:
    write_pairs(tmp_path / "pairs.jsonl", pairs(32))
    return TrainConfig(
        pairs=tmp_path / "pairs.jsonl", model=chat, out=tmp_path / "run", criterion="helpfulness",
        learning_rate=3e-3, pairs_per_step=4, checkpoint_every_steps=2, device="cpu",
    )  # fmt: skip


def changed(config: TrainConfig, **fields: object) -> TrainConfig:
    return from_mapping(TrainConfig, to_mapping(config) | fields)


def weights(config: TrainConfig) -> bytes:
    return (config.out / "model" / "model.safetensors").read_bytes()


@pytest.fixture
def whole(config, tmp_path) -> bytes:
    """The weights of a run that nobody disturbed."""
    undisturbed = changed(config, out=str(tmp_path / "undisturbed"))
    train(undisturbed)
    return weights(undisturbed)


class Stopped(Exception):
    pass


@pytest.fixture
def stopped(config, monkeypatch) -> RunFolder:
    """The folder of a run that stopped after step 7; its last checkpoint is of step 6."""
    log_metrics = RunFolder.log_metrics

    def stop(folder, step, *args, **figures):
        log_metrics(folder, step, *args, **figures)
        if step == 7:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", stop)
        with pytest.raises(Stopped):
            train(config)
    return RunFolder(config.out)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def ending(config: TrainConfig) -> str:
    """The sentence with which the command ends."""
    with pytest.raises(SystemExit) as ended:
        main(to_flags(to_mapping(config)))
    return str(ended.value.code)


def refusal(config: TrainConfig) -> str:
    """The same of a command that leaves every checkpoint as it is."""
    kept = [f for f in config.out.iterdir() if f.name.startswith("checkpoint")]
    before = [contents(folder) for folder in kept]
    said = ending(config)
    assert [contents(folder) for folder in kept] == before
    assert not (config.out / "model").exists()
    return said


def test_it_goes_on_after_the_last_checkpoint(config, stopped, whole, capfd):
    train(config)
    assert "Resuming after step 6." in capfd.readouterr().out
    assert weights(config) == whole
    assert [line["step"] for line in stopped.metrics()] == list(range(1, 9))


FILES = ("weights.safetensors", "optimiser.safetensors", "position.json")


def flip(file: Path) -> None:
    """One bit in the middle, which no format would notice."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Path.unlink, "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), "is damaged: it is not what was"),
        (flip, "is damaged: it is not what was written"),
    ],
    ids=["missing", "cut short", "one bit"],
)
def test_a_damaged_checkpoint_is_refused(config, stopped, name, fault, sentence):
    fault(stopped.checkpoint / name)
    said = refusal(config)
    assert said.startswith(f"{stopped.checkpoint / name} {sentence}")
    assert said.endswith(f"; to go on from the checkpoint before it, remove {stopped.checkpoint}")


def test_the_checkpoint_before_leads_to_the_same_end(config, stopped, whole, capfd):
    flip(stopped.checkpoint / "weights.safetensors")
    shutil.rmtree(stopped.checkpoint)
    train(config)
    assert "Resuming after step 4." in capfd.readouterr().out
    assert weights(config) == whole


def test_without_any_it_begins_again(config, stopped, whole):
    shutil.rmtree(stopped.path / "checkpoint.old")
    flip(stopped.checkpoint / "weights.safetensors")
    assert refusal(config).endswith(f"; to begin again, remove {stopped.checkpoint}")
    shutil.rmtree(stopped.checkpoint)
    train(config)
    assert weights(config) == whole


@pytest.mark.parametrize("damage", ["", "{}", '{"config": null, "files": 3}', None])
def test_a_checkpoint_without_its_seal_is_refused(config, stopped, damage):
    seal = stopped.checkpoint / "sha256.json"
    seal.unlink() if damage is None else seal.write_text(damage)
    assert refusal(config).startswith(f"{seal} is missing or damaged")


def test_the_checkpoint_of_another_run_is_refused(config, stopped, tmp_path):
    """Of the same model and the same shapes: nothing else would tell."""
    other = tmp_path / "other"
    shutil.move(stopped.path, other)
    train_until_stopped = changed(config, seed=1)
    RunFolder(config.out).path.mkdir()
    RunFolder(config.out).write_config(train_until_stopped)
    shutil.copytree(other / "checkpoint", config.out / "checkpoint")
    said = refusal(train_until_stopped)
    assert said.startswith(f"{config.out / 'checkpoint'} is the checkpoint of another run")


def test_a_finished_run_keeps_no_checkpoint(config, stopped):
    train(config)
    assert not list(config.out.glob("checkpoint*"))
    shutil.copytree(
        config.out / "model", config.out / "checkpoint.old"
    )  # killed before it was gone
    train(config)
    assert not list(config.out.glob("checkpoint*"))


# --- a full disk -------------------------------------------------------------------------------


@pytest.fixture(params=[MountedDisk, LimitedFiles])
def small_disk(request, tmp_path):
    disk = request.param(tmp_path / "disk")
    if not disk.is_there:
        pytest.skip(NO_MOUNT)
    yield disk
    disk.leave()


def filled_after(step: int, disk, monkeypatch: pytest.MonkeyPatch, **note: str) -> None:
    """Let a run's disk be full from the end of that step on."""
    log_metrics = RunFolder.log_metrics

    def fill_up(run, now, *args, **figures):
        if now == step:
            disk.fill(50_000 if not note else 0)
        log_metrics(run, now, *args, **figures, **note)

    monkeypatch.setattr(RunFolder, "log_metrics", fill_up)


@pytest.mark.parametrize(("step", "kept"), [(1, None), (3, {"step": 2})])
def test_a_full_disk_keeps_the_last_checkpoint(config, whole, small_disk, monkeypatch, step, kept):
    small = changed(config, out=str(small_disk.path / "run"))
    folder = RunFolder(small.out)
    with monkeypatch.context() as patch:
        filled_after(step, small_disk, patch)
        said = ending(small)
    assert said.startswith(f"{folder.checkpoint}.new/weights.safetensors cannot be written: ")
    assert small_disk.says in said
    assert "\n" not in said
    assert not Path(f"{folder.checkpoint}.new").exists()
    found = folder.resumable_checkpoint()
    assert (found and json.loads((found / "position.json").read_text())) == kept
    small_disk.make_room()
    train(small)
    assert weights(small) == whole
    assert [line["step"] for line in folder.metrics()] == list(range(1, 9))


def test_a_disk_that_takes_no_line_of_figures(config, whole, small_disk, monkeypatch):
    small = changed(config, out=str(small_disk.path / "run"))
    folder = RunFolder(small.out)
    with monkeypatch.context() as patch:
        filled_after(3, small_disk, patch, note="x" * 4096)
        said = ending(small)
    assert said == f"{folder.metrics_file} cannot be written: {small_disk.says}"
    small_disk.make_room()
    train(small)
    assert weights(small) == whole
    assert [line["step"] for line in folder.metrics()] == list(range(1, 9))


def test_a_model_that_finds_no_room_leaves_the_checkpoint(config, whole, small_disk, monkeypatch):
    small = changed(config, out=str(small_disk.path / "run"))
    folder = RunFolder(small.out)
    score_pairs = training.score_pairs

    def fill_up(*args):
        small_disk.fill(50_000)
        return score_pairs(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "score_pairs", fill_up)
        said = ending(small)
    assert said.startswith(f"{folder.model}.new cannot be written: ")
    assert small_disk.says in said
    assert folder.resumable_checkpoint() is not None
    small_disk.make_room()
    train(small)
    assert weights(small) == whole


def test_it_goes_on_with_other_settings_of_how_it_computes(config, stopped, whole):
    """As the sentence of a full device says; from its checkpoint, and within rounding."""
    again = changed(config, tokens_per_minibatch=64, recompute_activations=True)
    train(again)
    assert [line["step"] for line in stopped.metrics()] == list(range(1, 9))
    assert json.loads(stopped.config_file.read_text()) == to_mapping(again)
    provenance = json.loads(stopped.provenance_file.read_text())
    used = [start["settings"] for start in (provenance, *provenance["later"])]
    assert [one["tokens_per_minibatch"] for one in used] == [4096, 64]
    assert [one["recompute_activations"] for one in used] == [False, True]
    ours, theirs = (load(data) for data in (weights(config), whole))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name])


# --- from the run folder alone -----------------------------------------------------------------


def test_a_run_is_made_again_from_its_configuration(config, whole, tmp_path):
    """In a fresh process, from nothing but ``config.json`` and the inputs that it names."""
    train(config)
    again = tmp_path / "again"
    command = [sys.executable, "-m", "reward.train", "--config", str(config.out / "config.json")]
    subprocess.run([*command, "--out", str(again)], check=True)
    assert (again / "model" / "model.safetensors").read_bytes() == weights(config) == whole
    provenances = [(run / "provenance.json").read_text() for run in (config.out, again)]
    assert provenances[0] == provenances[1]
