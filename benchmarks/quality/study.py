"""The quality study: one command per table, interruptible, results stored as they come.

    python benchmarks/quality/study.py --table headline --seeds 5
    python benchmarks/quality/study.py --queue          # all tables by priority
    python benchmarks/quality/report.py                 # docs/quality.md from what is stored

A cost line comes before anything is trained. Several processes may work on one folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sweeps import NotSwept
from table import Table
from tables import QUEUE, TABLES, names

from atoll.compare.store import ResultFolder
from atoll.compare.trial import Trial
from atoll.compare.work import Workbench
from atoll.simulator.training import Look

RESULTS = Path(__file__).resolve().parents[1] / "results" / "quality"
TOKENS_S = 36_000.0
"""Tokens a second of one core of the machine that the first results are from, 0.36M parameters."""
REFERENCE_PARAMS = 357_024


def main() -> int:
    """Do a table, or the whole queue."""
    arguments = _arguments()
    folder = ResultFolder(arguments.results)
    work = list(QUEUE) if arguments.queue else [(arguments.table, arguments.seeds)]
    for name, num_seeds in work:
        try:
            table = TABLES[name](folder)
        except NotSwept as error:
            print(f"{name}: {error}", file=sys.stderr)
            if not arguments.queue:
                return 2
            continue
        do(table, num_seeds, folder, arguments.dry)
    return 0


def do(table: Table, num_seeds: int, folder: ResultFolder, dry: bool) -> None:
    """One table: what it costs, then every trial that is missing."""
    trials = table.trials(num_seeds)
    missing = [trial for trial in trials if folder.find(trial) is None]
    minutes = sum(expected_s(trial) for trial in missing) / 60
    say(
        f"{table.name}: {len(table.rows)} rows x {len(trials) // len(table.rows)} seeds, "
        f"{len(missing)} trials to do, {sum(tokens_of(t) for t in missing) / 1e6:.1f} million "
        f"tokens, about {minutes:.0f} minutes of one core"
    )
    if dry:
        return
    bench = Workbench(folder, _show)
    labels = table.labels(trials)
    for done in bench.do(trials):
        if done.fresh:
            row = f"{table.name} | {labels[done.trial.key]} | seed {done.trial.seed}"
            say(f"  {row} | loss {done.result.loss:.4f} | {done.took_s:.0f} s")


def tokens_of(trial: Trial) -> int:
    """Tokens a trial trains."""
    return trial.training.train.budget_tokens


def expected_s(trial: Trial) -> float:
    """Seconds of one core that a trial should take."""
    model = trial.training.train.model
    params = model.num_layers * (4 * model.dim**2 + 3 * model.dim * model.hidden_dim)
    return tokens_of(trial) / TOKENS_S * max(0.35, params / REFERENCE_PARAMS)


def say(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _show(trial: Trial, look: Look) -> None:
    if sys.stderr.isatty():
        print(f"    {trial.method} {look.tokens:,} tokens: {look.loss:.4f}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", choices=list(TABLES), help=names(TABLES))
    what.add_argument("--queue", action="store_true", help="all tables by priority")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--dry", action="store_true", help="only say what it costs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
