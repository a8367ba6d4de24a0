"""A round's folder runs again to the same bits, and what is not the same is found and named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from reward.lines import write_records
from reward.provenance import digest
from reward.run_folder import RunFolder
from rlhf_loop.config import COMMAND_CONFIGS, ReplayConfig, RoundConfig
from rlhf_loop.replay import differences, main, recorded_stages, replay
from rlhf_loop.round import run_round
from tests.kill_round import inputs

WEIGHTS = "model/model.safetensors"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def made(given, tmp_path_factory):
    """A round of three stages."""
    out = tmp_path_factory.mktemp("rounds") / "made"
    small = {"batch": 8, "learning_rate": 3e-3, "device": "cpu"}
    config = RoundConfig(
        **{name: given[name] for name in ("prompts", "helpfulness", "safety")},
        policy=given["brief"], out=out, max_new_tokens=16,
        stages=("rejection", "ppo", "evaluate"),
        rejection={**small, "samples": 3, "chunk_prompts": 8},
        ppo={**small, "minibatch": 4, "iterations": 2, "validate_every": 1},
        evaluate={"device": "cpu", "diversity_prompts": 2, "diversity_samples": 3,
                  "tasks": [str(given["tasks"])]},
    )  # fmt: skip
    run_round(config)
    return out


@pytest.fixture
def copy(made, tmp_path):
    """The same round where it may be spoilt, at another place than it was made."""
    return shutil.copytree(made, tmp_path / "copy")


def test_it_works(made, tmp_path, capsys):
    """All stages end at the same bits, each started from what the one before it makes now."""
    main([str(made), "--out", str(tmp_path / "again")])
    assert capsys.readouterr().out.endswith("equal to the last bit: rejection, ppo, evaluate\n")
    started = json.loads((tmp_path / "again/ppo/config.json").read_text())
    assert started["policy"] == str(tmp_path / "again/rejection/model")
    assert started["prompts"] == json.loads((made / "ppo/config.json").read_text())["prompts"]
    assert (tmp_path / "again/ppo" / WEIGHTS).read_bytes() == (made / "ppo" / WEIGHTS).read_bytes()


def test_one_stage_alone_and_a_changed_bit_in_it(copy, tmp_path, capsys):
    """As the platform keeps it: a folder of its own. One bit of one weight is found."""
    (name, weight), spoilt = changed_bit(copy / "ppo" / WEIGHTS)
    with pytest.raises(SystemExit) as ended:
        main([str(copy / "ppo"), "--out", str(tmp_path / "again")])
    by = (spoilt - weight).abs().item()
    found = f"ppo: {WEIGHTS}, {name}: 1 of {{}} numbers, by {by:.3g} at most"
    assert ended.value.code == found.format(load_file(copy / "ppo" / WEIGHTS)[name].numel())
    again = RunFolder(tmp_path / "again").path
    saved = (again / WEIGHTS).stat().st_mtime_ns
    with pytest.raises(SystemExit, match=rf"{WEIGHTS}, {name}: 1 of"):
        main([str(copy / "ppo"), "--out", str(again)])  # it is there: compared, not run
    assert (again / WEIGHTS).stat().st_mtime_ns == saved


def test_a_stage_that_went_on_with_other_settings_is_told_and_no_fault(copy, tmp_path, capsys):
    """Nor what was made from it."""
    began = json.loads((copy / "ppo/provenance.json").read_text())
    later = {**began, "settings": began["settings"] | {"tokens_per_minibatch": 64}}
    edited(copy / "ppo/provenance.json", later=[later])
    changed_bit(copy / "ppo" / WEIGHTS)
    edited(copy / "evaluate/result.json", kl=3.0)
    given = json.loads((copy / "evaluate/provenance.json").read_text())["inputs"]
    edited(copy / "evaluate/provenance.json",
           inputs=given | {"policy": digest(copy / "ppo/model")})  # fmt: skip
    main([str(copy), "--out", str(tmp_path / "again")])
    *_, ppo, _, evaluated, last = capsys.readouterr().out.splitlines()
    assert ppo.startswith(
        "ppo: made with tokens_per_minibatch 2048, then 64, so equal bits are not promised: "
        f"{WEIGHTS}, "
    )
    assert evaluated.startswith(f"evaluate: made from {copy}/ppo/model, so equal bits are not")
    assert last == "equal to the last bit: rejection"


def changed_bit(file):
    """The last bit of the first number of the first tensor: ((its name, was), is)."""
    tensors = load_file(file)
    name = min(tensors)
    was = tensors[name].flatten()[0].clone()
    tensors[name].view(torch.int32).view(-1)[0] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})
    return (name, was), tensors[name].flatten()[0]


def test_a_stage_that_is_not_run_again_is_an_input(copy, tmp_path):
    """Where rejection sampling is not wanted, PPO starts from the folder, held against its hash."""
    changed_bit(copy / "rejection" / WEIGHTS)
    asked = ReplayConfig(run=copy, out=tmp_path / "again", stages=("ppo", "evaluate"))
    with pytest.raises(ValueError, match=r"ppo: policy \(.*copy/rejection/model\) has changed"):
        replay(asked)
    assert not asked.out.exists()


# --- inputs --------------------------------------------------------------------------------------


def test_inputs_that_are_gone_or_not_what_they_were_are_all_named(made, given, tmp_path):
    """Before anything runs."""
    folder = shutil.copytree(made / "rejection", tmp_path / "rejection")
    config = json.loads((folder / "config.json").read_text())
    config["prompts"] = str(shutil.copy(given["prompts"], tmp_path / "prompts.jsonl"))
    config["safety"] = str(tmp_path / "nowhere")
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write("\n")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has changed") as refused:
        replay(ReplayConfig(run=folder, out=tmp_path / "again"))
    assert str(refused.value).splitlines() == [
        f"rejection: prompts ({tmp_path}/prompts.jsonl) has changed since the run was made",
        f"rejection: safety ({tmp_path}/nowhere) is missing",
    ]
    assert not (tmp_path / "again").exists()


def test_an_input_that_nobody_hashed_is_refused(copy, tmp_path):
    file = copy / "ppo/provenance.json"
    provenance = json.loads(file.read_text())
    del provenance["inputs"]["helpfulness"]
    file.write_text(json.dumps(provenance))
    with pytest.raises(ValueError, match=r"helpfulness .* was not hashed when the run was made"):
        replay(ReplayConfig(run=copy, out=tmp_path / "again"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "ppo/result.json").unlink(), "ppo is not done: there is no result.json"),
        (lambda f: (f / "ppo/provenance.json").unlink(), "provenance.json is missing or damaged"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is missing or damaged"),
        (lambda f: (f / "ppo/config.json").write_text('{"batch": 3}'),
         "has the settings of no command here"),
        (lambda f: (f / "ppo/result.json").write_text('{"ranks": 2}'), "the run of 2 processes"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_replayed(copy, tmp_path, spoil, sentence):
    spoil(copy)
    with pytest.raises(ValueError, match=sentence):
        replay(ReplayConfig(run=copy, out=tmp_path / "again"))


def test_odd_folders_and_stages_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match="had no stage 'dpo', allowed are rejection, ppo, eval"):
        recorded_stages(made, ("dpo",))
    with pytest.raises(ValueError, match="is no round's folder, so it has no stages"):
        recorded_stages(made / "ppo", ("ppo",))
    with pytest.raises(ValueError, match="replay into another folder"):
        replay(ReplayConfig(run=made, out=made / "again"))
    other = shutil.copytree(made / "ppo", tmp_path / "other")
    with pytest.raises(ValueError, match="holds another run"):
        replay(ReplayConfig(run=made / "ppo", out=other))


def test_every_command_is_known_by_its_settings():
    """A stage's folder does not name its command."""
    names = [frozenset(kind.__dataclass_fields__) for kind in COMMAND_CONFIGS.values()]
    assert len({*names, frozenset(RoundConfig.__dataclass_fields__)}) == len(names) + 1


# --- what is compared ----------------------------------------------------------------------------


def edited(file, **changes):
    """Change the last line of JSON lines, or a JSON object."""
    text = file.read_bytes()
    *lines, last = text.splitlines() if file.suffix == ".jsonl" else [text]
    lines.append(json.dumps({**json.loads(last), **changes}).encode())
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return len(lines)


def test_times_and_attempts_do_not_count(made, copy):
    edited(copy / "ppo/metrics.jsonl", time=1.0, **{"seconds/update": 9.0})
    edited(copy / "ppo/result.json", attempt=7)
    (copy / "ppo/log.txt").write_text("other words")
    assert list(differences(made, copy)) == []


def test_a_figure_and_its_step(made, copy):
    edited(copy / "ppo/metrics.jsonl", **{"objective/kl": 0.25})
    (found,) = differences(made / "ppo", copy / "ppo")
    assert found.startswith("metrics.jsonl, step 2, objective/kl is 0.25, was ")


def test_a_result(made, copy):
    edited(copy / "evaluate/result.json", kl=3.0)
    (found,) = differences(made / "evaluate", copy / "evaluate")
    assert found.startswith("result.json, kl is 3.0, was ")


def test_an_answer_and_its_line(made, copy):
    line = edited(copy / "rejection/candidates.jsonl", text="Hm.")
    (found,) = differences(made / "rejection", copy / "rejection")
    assert found.startswith(f'candidates.jsonl, line {line}, text is "Hm.", was ')


@pytest.mark.parametrize("mark", ["\u2028", "\u0085"])
def test_what_ends_a_line_for_some_readers_ends_none(tmp_path, mark):
    """Answers hold them; a line of JSON lines ends with a line feed and nothing else."""
    for folder, text in (("was", "by law"), ("now", "by rule")):
        (tmp_path / folder).mkdir()
        records = [{"text": f"No.{mark}Why?"}, {"text": f"Yes,{mark}{text}."}]
        write_records(tmp_path / folder / "candidates.jsonl", records)
    (found,) = differences(tmp_path / "was", tmp_path / "now")
    assert found.startswith("candidates.jsonl, line 2, text is ")


def test_files_that_are_gone_new_short_or_other(made, copy):
    (copy / "rejection/selected.jsonl").unlink()
    (copy / "rejection/more.jsonl").write_text("{}\n")
    (copy / "rejection/model/tokenizer.json").write_text("{}")
    lines = (made / "rejection/candidates.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "rejection/candidates.jsonl").write_bytes(b"".join(lines[:-1]))
    assert list(differences(made / "rejection", copy / "rejection")) == [
        f"candidates.jsonl has {len(lines) - 1} lines, had {len(lines)}",
        "model/tokenizer.json is not the same",
        "more.jsonl is new",
        "selected.jsonl was not made again",
    ]
