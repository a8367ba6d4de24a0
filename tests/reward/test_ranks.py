"""Two processes train what one trains, and neither outlives the other.

Real processes that talk by gloo on the CPU; starting them takes most of the time, so each start
serves several tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from reward import fsdp, ranks, shards
from reward.config import TrainConfig
from reward.data import PairRows
from reward.preferences import write_pairs
from reward.run_folder import RunFolder
from reward.settings import from_mapping, to_flags
from reward.train import train
from tests.ports import free_port
from tests.reward.pairs import pair, pairs
from tests.tiny_models import tiny_chat_model

TORCHRUN = [
    str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2",
]  # fmt: skip
CASES = {
    "recipe": {},
    "safety": {"pairs": "safety.jsonl", "criterion": "safety", "centring": 0.1},
    "adapters": {"lora_rank": 4, "recompute_activations": True},
    "bfloat16": {"dtype": "bfloat16"},
    "float64": {},
}
OF_THE_DIVISION = {"time", "computed_tokens"}  # what ranks have in common each computes
ORDERS = ("accuracy", "low", "high", "count")
ALIKE = {"bfloat16": 1e-2, "float64": 1e-9}  # of the weights' norm; else float32's
PATIENCE_SECONDS = 600  # for what hangs; two ranks have loaded torch long before


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def settings(work: Path, out: str, **fields) -> dict:
    """17 pairs a step in minibatches of 4: no number of ranks divides them evenly."""
    wanted = {
        "pairs": "pairs.jsonl", "holdout": "holdout.jsonl", "model": "chat",
        "criterion": "helpfulness", "learning_rate": 3e-3, "pairs_per_step": 17,
        "tokens_per_minibatch": 120, "epochs": 4, "checkpoint_every_steps": 3, "device": "cpu",
        "out": out, **fields,
    }  # fmt: skip
    files = {name: str(work / wanted[name]) for name in ("pairs", "holdout", "model", "out")}
    return wanted | files


def start(words: list[str], log: Path, **more: str) -> subprocess.Popen:
    """A process in a session of its own, as supervisors start it."""
    with log.open("w") as file:
        return subprocess.Popen(
            words, env=environment(**more), start_new_session=True,
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip


def after_step(step: int, folder: RunFolder, *children: subprocess.Popen) -> None:
    """Wait until a run has taken a step."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (last := folder.last_metrics()) or last["step"] < step:
        assert all(child.poll() is None for child in children)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("ranks")
    tiny_chat_model(work / "chat")
    write_pairs(work / "pairs.jsonl", pairs(56))
    write_pairs(work / "safety.jsonl", pairs(56, "safety"))
    write_pairs(work / "holdout.jsonl", [*pairs(9, first=100), *pairs(8, "safety", first=200)])
    return work


@pytest.fixture(scope="module")
def killed(work) -> None:
    """Two ranks as a plain ``srun`` starts them, the second killed in the middle.

    Leaves the same checkpoint in "killed", for two ranks, and in "alone", for one.
    """
    port = str(free_port())
    words = [sys.executable, "-m", "reward.train", *to_flags(settings(work, "killed"))]
    children = [
        start(words, work / f"rank-{rank}.log", SLURM_STEP_NUM_TASKS="2", SLURM_PROCID=rank,
              SLURM_LOCALID=rank, MASTER_ADDR="localhost", MASTER_PORT=port)
        for rank in ("0", "1")
    ]  # fmt: skip
    after_step(5, RunFolder(work / "killed"), *children)
    children[1].kill()
    assert children[0].wait(PATIENCE_SECONDS) not in (0, None)
    children[1].wait()
    assert not RunFolder(work / "killed").result()
    assert len(list((work / "killed" / "checkpoint").glob("weights-*-of-2.safetensors"))) == 2
    shutil.copytree(work / "killed", work / "alone")
    shutil.copytree(work / "killed" / "checkpoint", work / "damaged")
    for file in (work / "alone" / "config.json", work / "alone" / "checkpoint" / "sha256.json"):
        file.write_text(file.read_text().replace(str(work / "killed"), str(work / "alone")))


@pytest.fixture(scope="module")
def trained(work, killed) -> Path:
    """Every case by one process and by two, and what was killed finished by two and by one."""
    fewer = settings(work, "more")  # one rank's checkpoint, for two
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", stop_at_step_5)
        with pytest.raises(KeyboardInterrupt):
            train(from_mapping(TrainConfig, fewer))
    plans = {
        number: {name: settings(work, f"{name}-{number}", **CASES[name]) for name in CASES}
        for number in (1, 2)
    }
    plans[1] = {"alone": settings(work, "alone"), **plans[1]}
    plans[2] = {"killed": settings(work, "killed"), "more": fewer, **plans[2]}
    children = []
    for number, launcher in ((1, [sys.executable]), (2, TORCHRUN)):
        (work / f"{number}.json").write_text(json.dumps(plans[number]))
        words = ["-m", "tests.reward.trainings", str(work / f"{number}.json")]
        children.append(start([*launcher, *words], work / f"{number}.log"))
    try:
        for number, child in enumerate(children, start=1):
            assert child.wait(PATIENCE_SECONDS) == 0, (work / f"{number}.log").read_text()[-3000:]
    finally:
        for child in children:
            child.kill()  # its ranks follow
    return work


def stop_at_step_5(self, step, total, **figures):
    if step == 5:
        raise KeyboardInterrupt


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The norm of the weights' difference, as a share of their norm."""
    assert one.keys() == two.keys()
    first, second = (torch.cat([w[n].double().flatten() for n in one]) for w in (one, two))
    return ((first - second).norm() / first.norm()).item()


def accuracies(figures: dict[str, object]) -> dict[str, object]:
    """Those figures that follow from which response scores higher."""
    return {name: value for name, value in figures.items() if name in ORDERS or "by_" in name}


@pytest.mark.parametrize("case", CASES)
def test_it_works(trained, case):
    """Weights, figures of every step and holdout figures of two ranks are those of one; in bfloat16
    nearly, since norms are gathered in it too."""
    one, two = (trained / f"{case}-{number}" for number in (1, 2))
    assert apart(weights(one), weights(two)) < ALIKE.get(case, 1e-6)
    rough = {"bfloat16": 0.1, "float64": 1e-9}.get(case, 1e-4)
    lines = zip(RunFolder(one).metrics(), RunFolder(two).metrics(), strict=True)
    for mine, theirs in lines:
        assert mine.keys() == theirs.keys()
        for name in {"loss"} if case == "bfloat16" else mine.keys() - OF_THE_DIVISION:
            assert theirs[name] == pytest.approx(mine[name], rel=rough, abs=rough / 10), name
        assert mine["computed_tokens"] <= theirs["computed_tokens"] <= mine["row_tokens"]
    results = [RunFolder(out).result() for out in (one, two)]
    assert accuracies(results[0]["holdout"]) == accuracies(results[1]["holdout"])
    assert (results[0]["ranks"], results[1]["ranks"]) == (1, 2)


def test_a_killed_run_resumes_bit_for_bit_with_as_many_ranks(trained):
    whole, resumed = weights(trained / "recipe-2"), weights(trained / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [line["step"] for line in RunFolder(trained / "killed").metrics()]
    assert steps == list(range(1, 17))


@pytest.mark.parametrize("out", ["alone", "more"], ids=["of two by one", "of one by two"])
def test_a_checkpoint_is_read_by_another_number_of_ranks(trained, out):
    assert apart(weights(trained / "recipe-1"), weights(trained / out)) < 1e-6


def test_a_damaged_shard_is_named(work, killed):
    file = work / "damaged" / "weights.safetensors"
    whole = shards.load(file)
    second = file.with_stem("weights-2-of-2")
    rows = load_file(second)
    (name,) = (name for name in rows if "embed_tokens" in name)
    save_file({name: rows[name][1:]}, second, {shards.ROWS: json.dumps({name: [161, 320]})})
    with pytest.raises(ValueError, match=rf"lacks row 160 of {name}"):
        shards.load(file)
    second.write_bytes(second.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"weights-2-of-2\.safetensors cannot be read"):
        shards.load(file)
    second.unlink()
    with pytest.raises(ValueError, match=r"weights-2-of-2\.safetensors cannot be read"):
        shards.load(file)
    assert whole[name].shape == (320, 32)


def test_the_first_rank_alone_speaks_and_writes(trained):
    said = (trained / "2.log").read_text()
    assert len(re.findall(r"Resuming after step \d+\.", said)) == 2
    folder = trained / "recipe-2"
    assert not list(folder.glob("*.new"))
    assert not (folder / "checkpoint").exists()


def test_nobody_outlives_the_launcher_nor_holds_the_folder(work):
    """torchrun killed outright, as a supervisor does that has lost patience."""
    settled = settings(work, "orphans", epochs=2000)
    words = [*TORCHRUN, "-m", "reward.train", *to_flags(settled)]
    child = start(words, work / "orphans.log")
    folder = RunFolder(work / "orphans")
    after_step(1, folder, child)
    ranked = psutil.Process(child.pid).children(recursive=True)
    assert len(ranked) >= 2
    assert folder.is_held()
    child.kill()
    child.wait()
    gone, alive = psutil.wait_procs(ranked, timeout=20)
    for process in alive:
        process.kill()
    assert not alive
    assert len(gone) == len(ranked)
    assert not folder.is_held()


def test_a_refusal_is_in_the_last_words_of_the_launcher(work):
    settled = settings(work, "refused", device="cuda:1")
    words = [*TORCHRUN, "-m", "reward.train", *to_flags(settled)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    sentence = "device is 'cuda:1'; allowed for several ranks are auto, cpu, cuda"
    assert sentence in done.stderr.splitlines()
    assert sentence in "\n".join(done.stderr.splitlines()[-12:])


def test_an_incomplete_launch_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="2 processes were launched, but LOCAL_RANK is not set"), \
            ranks.joined("cpu"):  # fmt: skip
        pass


@pytest.mark.parametrize(
    "firsts",
    [{"score.weight": ["torch.float32", 1, 16]}, {"score.weight": ["torch.bfloat16", 1, 8]}, {}],
)
def test_ranks_with_different_models_are_refused(monkeypatch, firsts):
    """What the first rank has is stood in for; where all have the same nothing is said."""
    own = {"score.weight": torch.zeros(1, 8)}
    fsdp._refuse_another(own)
    monkeypatch.setattr(fsdp, "told", lambda value: firsts)
    with pytest.raises(ValueError, match=r"divide this model: score\.weight is not what its"):
        fsdp._refuse_another(own)


def rows_of(lengths: list[tuple[int, int]]) -> list[PairRows]:
    """A pair for each (dialogue, tokens), no two sharing a token."""
    return [
        PairRows(pair(n, root=f"root-{root}"), [2 * n] * length, [2 * n + 1] * length)
        for n, (root, length) in enumerate(lengths)
    ]


@given(
    lengths=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 60)), max_size=80),
    parts=st.integers(1, 9),
)
def test_every_pair_is_one_ranks(lengths, parts):
    rows = rows_of(lengths)
    divided = ranks.divide(rows, parts)
    assert len(divided) == parts
    assert sorted(index for part in divided for index in part) == list(range(len(rows)))
    homes = [{rows[index].pair.root for index in part} for part in divided]
    assert sum(map(len, homes)) == len({row.pair.root for row in rows})
    tokens = [sum(2 * lengths[index][1] for index in part) for part in divided]
    dialogues: dict[int, int] = {}
    for root, length in lengths:
        dialogues[root] = dialogues.get(root, 0) + 2 * length
    largest = max(dialogues.values(), default=0)
    assert max(tokens) <= sum(tokens) / parts + largest
    assert ranks.divide(rows, parts) == divided


def test_17_pairs_for_4_ranks():
    divided = ranks.divide(rows_of([(n, 10) for n in range(17)]), 4)
    assert sorted(map(len, divided)) == [4, 4, 4, 5]


def test_a_shared_history_counts_once():
    """Two comparisons of one dialogue weigh less than two strangers of the same lengths."""
    stem = list(range(100))
    shared = [PairRows(pair(n, root="same"), [*stem, n], [*stem, n + 50]) for n in range(2)]
    alone = rows_of([(n + 7, 60) for n in range(2)])
    divided = ranks.divide([*shared, *alone], 2)
    assert divided == [[0, 1, 2], [3]]
