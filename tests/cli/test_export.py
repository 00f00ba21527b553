"""`atoll export`: what was published comes out whole, from the store and from the syncer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from atoll.fragments import Layout
from atoll.launch.export import letters_of_bytes, write_model
from atoll.launch.parameters import Parameters
from atoll.runfile.settings import RunFile, read_run_file
from atoll.train.model import Decoder, build_model, to_hf_config
from atoll.train.sources import load_sources
from atoll.train.step import evaluate
from cli.served import atoll, command, served

RUN = """
uplink = "int8"
[run]
run = "small"
budget_tokens = 20_000
last_round_s = 5.0
progress_every_s = 0.1
[protocol]
P = 4
H = 4
[merge]
downlink_codec = "int8"
[service]
keep_every_tokens = 5000
[train]
batch_size = 4
num_evaluation_batches = 2
[train.data]
max_megabytes = 0.5
[train.model]
preset = "tiny"
[local]
learners = 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run that has ended, and its report."""
    home = tmp_path_factory.mktemp("trained")
    (home / "small.toml").write_text(RUN)
    done = atoll("train", home / "small.toml", "--dir", home / "run", "--json")
    assert done.returncode == 0, done.stderr
    return home / "run", json.loads(done.stdout.splitlines()[-1])


def export(*options: object) -> int:
    return command("export", *options)


def loss_of(tensors: dict[str, torch.Tensor], run: RunFile) -> float:
    model = Decoder(run.train.model)
    model.load_state_dict(tensors, strict=False)
    train = run.train
    sources = load_sources(train.data, train.model.context, train.model.vocab_size)
    return evaluate(
        model, sources.held_out, train.num_evaluation_batches, train.batch_size, train.step
    )


def test_a_run_that_nobody_serves_comes_out_of_its_store(trained, tmp_path, capsys):
    run_dir, report = trained
    out = tmp_path / "model"
    assert export(run_dir, "--out", out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["source"] == "store" and document["transformers"] is True
    assert min(document["versions"]) >= 1
    run = read_run_file(run_dir / "run.toml")
    tensors, expected = load_file(out / "model.safetensors"), dict(_named(run))
    assert {name: each.shape for name, each in tensors.items()} == expected
    assert loss_of(tensors, run) == pytest.approx(report["loss_last"], abs=1e-4)
    assert json.loads((out / "config.json").read_text()) == to_hf_config(run.train.model)
    assert list(tmp_path.iterdir()) == [out], "nothing is left beside it"


def _named(run: RunFile) -> list[tuple[str, torch.Size]]:
    model = build_model(run.train.model, 0)
    return [(name, each.shape) for name, each in model.named_parameters()]


@pytest.mark.slow
def test_a_syncer_gives_the_same_and_an_invite_is_enough(trained, tmp_path, capsys):
    run_dir, _ = trained
    assert export(run_dir, "--out", tmp_path / "store") == 0
    with served(run_dir / "run.toml", run_dir):
        invite = run_dir / "run.invite"
        assert export(invite, "--out", tmp_path / "plain") == 0
        assert "give --run-file" in capsys.readouterr().out
        assert command("watch", invite) == 0, "who watches a run that has ended is done"
        assert "ended  100%" in capsys.readouterr().out
        given = ["--run-file", run_dir / "run.toml", "--json"]
        assert export(invite, "--out", tmp_path / "served", *given) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "syncer"
    assert _files(tmp_path / "served") == _files(tmp_path / "store")
    assert not (tmp_path / "plain/config.json").exists()
    weights = _files(tmp_path / "plain")["model.safetensors"]
    assert weights == _files(tmp_path / "store")["model.safetensors"]


def test_snapshots_are_named_and_one_of_them_comes_out_as_it_was(trained, tmp_path, capsys):
    run_dir, report = trained
    assert export(run_dir, "--list", "--json") == 0
    kept = json.loads(capsys.readouterr().out)["snapshots"]
    tokens = [each["tokens"] for each in kept]
    assert len(kept) >= 3 and tokens == sorted(tokens)
    assert any("the first after" in each["why"] for each in kept)
    assert export(run_dir, "--list") == 0
    assert str(kept[0]["number"]) in capsys.readouterr().out
    early, last = (_snapshot(run_dir, kept[at]["number"], tmp_path / str(at)) for at in (0, -1))
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [each["source"] for each in documents] == ["snapshot", "snapshot"]
    assert sum(documents[0]["versions"]) < sum(documents[1]["versions"])
    assert last == pytest.approx(report["loss_last"], abs=1e-4)
    assert early != last, "they are of different moments"


def _snapshot(run_dir: Path, number: int, out: Path) -> float:
    assert export(run_dir, "--snapshot", number, "--out", out, "--json") == 0
    return loss_of(load_file(out / "model.safetensors"), read_run_file(run_dir / "run.toml"))


def test_a_snapshot_that_is_not_kept_names_the_way_to_those_that_are(trained, tmp_path, capsys):
    assert export(trained[0], "--snapshot", 99999, "--out", tmp_path / "x") == 2
    assert "--list" in capsys.readouterr().err
    assert export(trained[0]) == 2
    assert "--out is missing" in capsys.readouterr().err


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_there_is_not_overwritten(trained, tmp_path, capsys):
    (tmp_path / "kept").write_text("mine")
    assert export(trained[0], "--out", tmp_path) == 2
    assert "name another folder with --out" in capsys.readouterr().err
    assert _files(tmp_path) == {"kept": b"mine"}


def test_an_export_that_fails_leaves_nothing(trained, tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("atoll.launch.export.save_file", fails)
    with pytest.raises(OSError, match="no room"):
        export(trained[0], "--out", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_invite_to_a_syncer_that_is_gone_names_the_fix(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("atoll.launch.parameters.FOLLOW_S", 0.2)
    assert export(trained[0] / "run.invite", "--out", tmp_path / "model") == 2
    assert "start its syncer, or name its run folder" in capsys.readouterr().err


def test_an_own_model_is_written_under_its_own_names(trained, tmp_path):
    own = {"body.weight": torch.randn(6, 3), "body.bias": torch.randn(6)}
    layout = Layout.from_tensors(own, 2, "balanced")
    parameters = Parameters("mine", layout, own, (3, 4), "syncer")
    run = read_run_file(trained[0] / "run.toml")
    assert write_model(tmp_path / "model", parameters, run) is False
    assert sorted(_files(tmp_path / "model")) == ["README.md", "atoll.json", "model.safetensors"]
    loaded = load_file(tmp_path / "model/model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in own.items())


def test_every_byte_has_a_letter_of_its_own():
    letters = letters_of_bytes()
    assert len(set(letters)) == 256 and letters[ord("a")] == "a" and letters[ord(" ")] == "Ġ"


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # those of the packages that are looked at here
def test_transformers_loads_it_generates_and_agrees(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    run_dir, _ = trained
    out = tmp_path / "model"
    assert export(run_dir, "--out", out) == 0
    run = read_run_file(run_dir / "run.toml")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    text = "def naïve(self):\n\treturn  1\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == list(text.encode())
    assert tokenizer.decode(ids[0]) == text
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    ours = Decoder(run.train.model)
    ours.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids)[0], atol=1e-4)
    made = theirs.generate(ids, max_new_tokens=8, do_sample=False)
    assert made.shape[1] == ids.shape[1] + 8
    assert "transformers" in sys.modules
