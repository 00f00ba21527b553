"""Every example runs as it stands: against a real syncer, to the end of a short run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atoll.launch.folder import RunFolder
from atoll.runfile.template import Choices, run_file_text
from cli.served import LIMIT_S, environment, free_port, served

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_file(folder: Path, tokens: int) -> Path:
    path = folder / "reef.toml"
    text = run_file_text(Choices("reef", free_port(), "127.0.0.1", 1, "tiny", tokens))
    path.write_text(text.replace("[run]", "[run]\nprogress_every_s = 0.2"))
    return path


def example(name: str, *options: object) -> str:
    """Run an example to its end; what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, options)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_own_loop_trains_to_the_end_of_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "reef")
    with served(run_file(tmp_path, 20_000), folder.root):
        said = example("own_loop.py", "--invite", folder.invite, "--name", "site-a")
    losses = [float(line.split()[3]) for line in said.splitlines()]
    assert losses[-1] < losses[0] / 2
    assert said.splitlines()[-1].endswith("run 100%")


@pytest.mark.slow
def test_nanogpt_like_trains_evaluates_and_saves(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "reef")
    text, saved = tmp_path / "input.txt", tmp_path / "last.pt"
    text.write_text("to be, or not to be: that is the question.\n" * 600)
    with served(run_file(tmp_path, 40_000), folder.root):
        options = ["--invite", folder.invite, "--name", "site-a", "--text", text]
        said = example("nanogpt_like.py", *options, "--workers", 1, "--save", saved)
    last = said.splitlines()[-1].split()
    assert float(last[4]) < 4.0 and last[-1] == "100%"
    kept = torch.load(saved, weights_only=True)
    assert kept["atoll"]["name"] == "site-a" and kept["atoll"]["tokens"] >= 40_000


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_two_sites_train_together_and_export(tmp_path: Path) -> None:
    command = f"{sys.executable} -m atoll"
    done = subprocess.run(
        ["sh", str(EXAMPLES / "two_sites/run.sh"), str(tmp_path / "reef"), "30000"],
        capture_output=True,
        text=True,
        env=dict(environment(), ATOLL=command, PORT=str(free_port())),
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "reef/model/model.safetensors").exists()
    logs = [(tmp_path / f"reef/{name}.log").read_text() for name in ("site-a", "site-b")]
    assert all("Traceback" not in log for log in logs)


def test_the_readme_of_two_sites_has_the_commands_of_its_script() -> None:
    script = (EXAMPLES / "two_sites/run.sh").read_text()
    readme = (EXAMPLES / "two_sites/README.md").read_text()
    for word in ("init", "syncer", "learner", "export"):
        assert f"$atoll {word} " in script and f"atoll {word} reef" in readme
