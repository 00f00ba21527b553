"""`atoll simulate train`: real training in virtual time, under failures and without."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.compare_table import show_rows
from atoll.cli.output import print_json
from atoll.compare.charts import draw
from atoll.compare.configuration import Wishes, configuration
from atoll.compare.table import rows
from atoll.compare.trial import Trial
from atoll.simulator.training import Surroundings, TrainingResult, TrainingSettings
from atoll.simulator.training_faults import FaultKind, Faults, learner_mtbf_s

CALM = "no failures"


def train(
    run_file: Annotated[Path | None, typer.Argument(help="A run file; else a small model.")] = None,
    learners: Annotated[int, typer.Option(help="Learners; 0: as in the run file, or 4.")] = 0,
    tokens: Annotated[int, typer.Option(help="Budget; 0: the run file's, or 500,000.")] = 0,
    faults: Annotated[str, typer.Option(help="pause, kill or cut.")] = "pause",
    mtbf_s: Annotated[float, typer.Option("--mtbf", help="Seconds between two, each learner.")] = (
        120.0
    ),
    chips: Annotated[int, typer.Option(help="In the place of --mtbf: chips of all learners.")] = 0,
    mtbi_years: Annotated[float, typer.Option(help="With --chips: years between a chip's.")] = 1.0,
    down_s: Annotated[float, typer.Option("--down", help="Seconds an interruption lasts.")] = 12.0,
    slow_share: Annotated[float, typer.Option("--slow", help="Share of slow learners.")] = 0.0,
    slow_factor: Annotated[float, typer.Option(help="How many times slower they are.")] = 1.2,
    seed: Annotated[int, typer.Option(help="Draws weights, data, pace and failures.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write a chart: PNG, SVG or PDF.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Train for real in virtual time: what failures cost in loss.

    The same run twice, without failures and with them: same first weights, data and links.
    """
    around = Surroundings(slow_share=slow_share, slow_factor=slow_factor)
    calm = configuration(run_file, Wishes(learners, tokens, seed), around)
    if chips:
        mtbf_s = learner_mtbf_s(chips, calm.protocol.M, mtbi_years)
    struck = replace(
        calm, surroundings=replace(around, faults=Faults(_kind(faults), mtbf_s, down_s))
    )
    name = f"{faults} every {mtbf_s:.0f} s"
    results = {
        each: {seed: _run(each, settings)} for each, settings in ((CALM, calm), (name, struck))
    }
    if plot is not None:
        draw(results, plot, f"Loss under failures: {calm.protocol.M} learners, {name} each")
    _show(results, name, as_json)


def _kind(word: str) -> FaultKind:
    kinds: dict[str, FaultKind] = {"pause": "pause", "kill": "kill", "cut": "cut"}
    if word not in kinds:
        raise typer.BadParameter(f"{word!r}: choose pause, kill or cut", param_hint="--faults")
    return kinds[word]


def _run(name: str, settings: TrainingSettings) -> TrainingResult:
    trial = Trial("decoupled", settings)
    for each in trial.run(trial.load()):
        if isinstance(each, TrainingResult):
            return each
        share = min(1.0, each.tokens / settings.train.budget_tokens)
        print(f"{name}: {share:4.0%} trained, loss {each.loss:.4f}", file=sys.stderr)
    raise AssertionError("a run ends with its result")


def _show(results: dict[str, dict[int, TrainingResult]], name: str, as_json: bool) -> None:
    found = rows(results, CALM)
    if as_json:
        runs = {
            key: asdict(result) for key, by_seed in results.items() for result in by_seed.values()
        }
        figures = [row.plain() for row in found]
        print_json({"command": "simulate train", "rows": figures, "runs": runs})
        return
    show_rows(found)
    (struck,) = results[name].values()
    print(f"{struck.interruptions} interruptions in {struck.time_s:,.0f} virtual seconds")
