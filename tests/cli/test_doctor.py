"""`atoll doctor` says what it sees, and what follows from it."""

from __future__ import annotations

import importlib
import json
import os

import pytest
from rich.console import Console

from atoll.cli import doctor as doctor_module
from atoll.cli import main
from atoll.cli.doctor import Finding


def run(*options: str) -> int:
    try:
        return main(["doctor", *options])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def test_json_is_one_document_and_agrees_with_the_exit_code(capsys, tmp_path):
    code = run("--json", "--directory", str(tmp_path))
    report = json.loads(capsys.readouterr().out)
    assert report["command"] == "doctor"
    assert report["ok"] is (code == 0)
    assert [each["name"] for each in report["findings"]] == [
        "python",
        "torch",
        "processors",
        "memory",
        "disk",
        "compiler",
        "bbr",
        "extras",
    ]


def test_words_end_with_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(doctor_module, "examine", lambda _: [Finding("disk", "warn", "1 GB", "ah")])
    assert run() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Ready, with less than the best: disk."


def test_a_failure_ends_with_exit_code_one(monkeypatch, capsys):
    monkeypatch.setattr(doctor_module, "examine", lambda _: [Finding("torch", "fail", "none")])
    assert run("--json") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_torch_that_is_missing_is_a_failure_with_the_fix(monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    found = doctor_module.examine_torch()
    assert found.status == "fail"
    assert "install torch" in found.note


def test_a_container_that_holds_to_one_core_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor_module, "usable_cores", lambda: 8)
    monkeypatch.setattr(doctor_module, "cpu_quota", lambda: 1.5)
    found = doctor_module.examine_processors()
    assert found.status == "warn"
    assert "1.5" in found.value


def test_a_quota_is_read_as_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_module, "CGROUP", tmp_path)
    assert doctor_module.cpu_quota() is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor_module.cpu_quota() is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert doctor_module.cpu_quota() == 2.5


@pytest.mark.parametrize(
    ("available_gb", "limit_gb", "status"),
    [(24, None, "ok"), (1, None, "warn"), (24, 1, "warn"), (24, 999, "ok")],
)
def test_memory_is_what_the_container_leaves(available_gb, limit_gb, status):
    meminfo = {"MemAvailable": available_gb * 10**9, "MemTotal": 32 * 10**9}
    limit_bytes = None if limit_gb is None else limit_gb * 10**9
    assert doctor_module.examine_memory(meminfo, limit_bytes).status == status


def test_memory_that_cannot_be_seen_says_so():
    assert "cannot be seen" in doctor_module.examine_memory({}, None).value


def test_a_directory_that_is_not_there_yet_is_looked_at_where_it_will_be(tmp_path):
    found = doctor_module.examine_disk(tmp_path / "runs" / "first")
    assert str(tmp_path) in found.value


def test_a_disk_that_cannot_be_written_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert doctor_module.examine_disk(tmp_path).status == "fail"


def test_the_compiler_is_the_one_the_environment_names(tmp_path):
    compiler = tmp_path / "my-compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert doctor_module.examine_compiler({"CXX": str(compiler)}).value == str(compiler)


def test_no_compiler_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor_module.shutil, "which", lambda name: None)
    assert doctor_module.examine_compiler({}).status == "warn"


def test_a_kernel_without_bbr_is_a_warning_that_names_what_it_has(monkeypatch, tmp_path):
    table = tmp_path / "controls"
    table.write_text("reno cubic\n")
    monkeypatch.setattr(doctor_module, "CONGESTION_CONTROLS", table)
    monkeypatch.setattr(doctor_module.socket, "TCP_CONGESTION", -1, raising=False)
    found = doctor_module.examine_congestion_control()
    assert found.status == "warn"
    assert "reno cubic" in found.value


def test_an_extra_that_is_not_here_names_what_brings_it(monkeypatch):
    def version_of(name: str) -> str:
        if name == "wandb":
            raise doctor_module.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(doctor_module, "version_of", version_of)
    found = doctor_module.examine_extras()
    assert found.status == "ok" and "datasets 1.2" in found.value
    assert "wandb (pip install 'atoll[wandb]')" in found.note and "datasets" not in found.note


def test_what_stands_in_brackets_is_shown(capsys):
    found = Finding("extras", "ok", "none", "pip install 'atoll[wandb]'")
    doctor_module.show([found], Console(width=200))
    assert "'atoll[wandb]'" in capsys.readouterr().out
