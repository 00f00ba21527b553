"""`atoll plan`: a plan for people and machines, a run file, and mistakes with their fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atoll.runfile.planned import decoder_near, num_params
from atoll.runfile.settings import read_run_file
from atoll.train.model import Decoder
from atoll.train.settings import PRESETS
from cli.served import command

EXAMPLE = Path(__file__).parents[2] / "examples" / "plan" / "four-regions.toml"
SMALL = ("--params", "10M", "--step-s", 1, "--sites", 2, "--up-mbit-s", 100)


def plan(*options: object) -> int:
    return command("plan", *options)


def test_the_run_file_is_the_plan_and_can_be_read(tmp_path, capsys):
    path = tmp_path / "run.toml"
    assert plan(EXAMPLE, "--write", path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    run = read_run_file(path)
    settings = document["settings"]
    protocol = run.syncer.protocol
    assert document["run_file"] == str(path)
    assert protocol.M == 4 and settings["P"] == protocol.P and settings["H"] == protocol.H
    assert (run.syncer.uplink, run.syncer.merge.downlink_codec) == ("int8", "int8")
    assert run.syncer.run.budget_tokens == document["tokens"] == 250_000_000_000
    assert run.train.step_tokens == pytest.approx(4e6, rel=0.01)
    assert num_params(run.train.model) == pytest.approx(12e9, rel=0.02)
    assert document["data_parallel"]["times_faster"] > 20


def test_the_flags_describe_sites_that_are_all_alike(capsys):
    assert plan(*SMALL) == 0
    said = capsys.readouterr().out
    assert "site-1, site-2" in said and "Bottleneck" in said and "goodput" in said


def test_the_model_of_a_run_file_is_planned_for_and_kept(tmp_path, capsys):
    path, model = tmp_path / "run.toml", EXAMPLE.parents[2] / "configs" / "laptop.toml"
    assert plan("--model", model, "--step-s", 1, "--sites", 2, "--write", path, "--json") == 0
    shape = read_run_file(model).train.model
    assert json.loads(capsys.readouterr().out)["params"] == num_params(shape)
    assert read_run_file(path).train.model == shape


def test_a_plan_that_cannot_work_says_so_and_exits_with_one(capsys):
    assert plan("--params", "1B", "--step-s", 1, "--sites", 2, "--up-mbit-s", 5, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert "full up" in document["bottleneck"] and "Mbit/s at" in document["what_helps"]


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ((), "--params is missing"),
        (("--params", "12B"), "--step-s is missing"),
        (("--params", "lots", "--step-s", 1), "write it as 12e9"),
        (("--params", "1B", "--step-s", 1, "--sites", 0), "set it to 1 or more"),
        (("--params", "1B", "--step-s", 1, "--budget", 5), "set price_per_hour"),
        ((EXAMPLE, "--params", "1B"), "leave out --params"),
        (("nowhere.toml",), "cannot read"),
        (("--params", "1B", "--model", "x.toml", "--step-s", 1), "leave one of them out"),
    ],
)
def test_a_mistake_names_the_fix(options, fix, capsys):
    assert plan(*options) == 2
    assert fix in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text("mine")
    assert plan(*SMALL, "--write", path) == 2
    assert "name another file" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize("params", [100_000, 10**6, 10**8, 10**9, 12 * 10**9, 4 * 10**11])
def test_the_reference_decoder_comes_near_any_size(params):
    assert num_params(decoder_near(params)) == pytest.approx(params, rel=0.15)


def test_sizes_of_decoders_are_counted_without_building_them():
    for shape in PRESETS.values():
        assert num_params(shape) == Decoder(shape).num_params
