"""`atoll compare`: methods side by side on one configuration, in virtual time."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.compare_table import show_rows
from atoll.cli.output import print_json
from atoll.compare.charts import draw
from atoll.compare.configuration import Wishes, configuration
from atoll.compare.methods import DEFAULT, METHODS, trial_of
from atoll.compare.store import ResultFolder
from atoll.compare.table import rows
from atoll.compare.trial import Trial
from atoll.compare.work import Workbench
from atoll.simulator.training import Look, Surroundings, TrainingResult
from atoll.train.settings import TrainSettings

Results = Mapping[str, Mapping[int, TrainingResult]]


def compare(
    run_file: Annotated[Path | None, typer.Argument(help="A run file; else a small model.")] = None,
    methods: Annotated[str, typer.Option(help="With commas between; --list shows them.")] = (
        ",".join(DEFAULT)
    ),
    learners: Annotated[int, typer.Option(help="Learners; 0: as in the run file, or 4.")] = 0,
    tokens: Annotated[int, typer.Option(help="Budget; 0: the run file's, or 500,000.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs of each method, seeds 0, 1, ...")] = 1,
    directory: Annotated[Path, typer.Option("--dir", help="Results, one file per run.")] = Path(
        "runs/compare"
    ),
    plot: Annotated[Path | None, typer.Option(help="Write a chart: PNG, SVG or PDF.")] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the methods.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, the table last.")] = False,
) -> None:
    """Train with several methods side by side: loss, time, bytes, goodput.

    Same first weights, data and learning-rate schedule. Results are kept as they come: Ctrl-C,
    and the same command goes on where it was. Differences are to the first method named.
    """
    if list_them:
        _list(as_json)
        return
    names = [each.strip() for each in methods.split(",") if each.strip()]
    settings = configuration(run_file, Wishes(learners, tokens), Surroundings())
    plan = {
        (name, seed): trial_of(name, settings).with_seed(seed)
        for seed in range(seeds)
        for name in names
    }
    results = _do(plan, ResultFolder(directory), as_json)
    if plot is not None:
        draw(results, plot, f"{settings.protocol.M} learners, {_millions(settings.train)}")
    _show(results, names[0], as_json)


@dataclass(frozen=True, slots=True)
class _Narrator:
    """Says on standard error how far a run is."""

    names: Mapping[str, str]

    def __call__(self, trial: Trial, look: Look) -> None:
        share = min(1.0, look.tokens / trial.training.train.budget_tokens)
        name = self.names[trial.key]
        print(f"{name}: {share:4.0%} trained, loss {look.loss:.4f}", file=sys.stderr)


def _do(
    plan: Mapping[tuple[str, int], Trial], folder: ResultFolder, as_json: bool
) -> dict[str, dict[int, TrainingResult]]:
    labels = {trial.key: f"{name}, seed {seed}" for (name, seed), trial in plan.items()}
    found: dict[str, TrainingResult] = {}
    for done in Workbench(folder, _Narrator(labels)).do(list(plan.values())):
        found[done.trial.key] = done.result
        if as_json:
            file = str(folder.file_of(done.trial))
            print_json({"event": "done", "run": labels[done.trial.key], "file": file})
    results: dict[str, dict[int, TrainingResult]] = {name: {} for name, _ in plan}
    for (name, seed), trial in plan.items():
        if trial.key in found:
            results[name][seed] = found[trial.key]
        else:
            label = labels[trial.key]
            print(f"{label}: another process is at it, and it is left out", file=sys.stderr)
    return results


def _show(results: Results, reference: str, as_json: bool) -> None:
    found = rows(results, reference)
    if as_json:
        print_json({"command": "compare", "rows": [row.plain() for row in found]})
        return
    show_rows(found)


def _list(as_json: bool) -> None:
    if as_json:
        print_json({"methods": {name: line for name, (line, _) in METHODS.items()}})
        return
    for name, (line, _) in METHODS.items():
        print(f"{name:20} {line}")


def _millions(train: TrainSettings) -> str:
    return f"{train.budget_tokens / 1e6:.1f} million tokens"
