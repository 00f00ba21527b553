"""The quality study: what its tables are made of, take from the sweeps, and say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from atoll.compare.store import ResultFolder
from atoll.compare.trial import Trial
from atoll.simulator.training import Look, TrainingResult

QUALITY = Path(__file__).resolve().parents[2] / "benchmarks" / "quality"


def script(name: str) -> ModuleType:
    if str(QUALITY) not in sys.path:
        sys.path.insert(0, str(QUALITY))
    return importlib.import_module(name)


def result(loss: float) -> TrainingResult:
    return TrainingResult((Look(10, 9, 1.0, loss),), 10, 9, 1.0, 0.9, 1.0, 5, 6, 3)


def keep(folder: ResultFolder, trials: dict[Trial, float]) -> None:
    for trial, loss in trials.items():
        folder.save(trial, result(loss), 1.0, "here")


RAMP = "mean, ramp to nesterov 0.7, 0.9, lr 0.002"


def swept(folder: ResultFolder, name: str, best: str) -> None:
    """A sweep in which the row `best` is the best; rows that another sweep had stay."""
    table = script("tables").TABLES[name](folder)
    for label, trial in table.rows.items():
        seeded = trial.with_seed(table.seeds[0])
        if folder.find(seeded) is None:
            folder.save(seeded, result(1.0 if label == best else 2.0), 1.0, "here")


def all_swept(folder: ResultFolder, best: str) -> None:
    """Every sweep of both methods, with the same best row."""
    for name in ("sweep-2", "sweep-4", "sweep-8"):
        swept(folder, name, best)
        swept(folder, name.replace("sweep", "sweep-diloco"), best)


def test_a_table_without_its_sweep_refuses_and_names_it(tmp_path: Path) -> None:
    tables = script("tables")
    with pytest.raises(script("sweeps").NotSwept, match="sweep-rate"):
        tables.headline(ResultFolder(tmp_path))


def test_tables_take_the_best_rows_of_the_sweeps(tmp_path: Path) -> None:
    tables, sweeps, folder = script("tables"), script("sweeps"), ResultFolder(tmp_path)
    swept(folder, "sweep-rate", "lr 0.004")
    assert sweeps.best_rate(folder) == 0.004
    all_swept(folder, RAMP)
    found = sweeps.best_decoupled(folder, 16).training
    assert found.train.optimizer.learning_rate == 0.002
    assert found.merge.averaging.rule == "mean"
    assert found.merge.outer.num_ramp_merges == 30
    assert (found.protocol.M, found.judged_on) == (16, "test")
    assert sweeps.best_decoupled(folder, 4, "rda").training.merge.averaging.rule == "rda"
    assert tables.codecs(folder).rows["int4 up and down"].training.uplink == "int4"


def test_one_choice_is_made_over_all_sweeps(tmp_path: Path) -> None:
    """A row that is best in one of them, and not in the others, is not it."""
    sweeps, folder = script("sweeps"), ResultFolder(tmp_path)
    lucky = sweeps.sweep(folder, 4).rows["rda, ramp to nesterov 0.7, 0.9, lr 0.0028"]
    alone = sweeps.sweep(folder, 4).rows["mean, nesterov 0.7, 0.5, lr 0.0014"]
    keep(folder, {lucky.with_seed(100): 0.5, alone.with_seed(100): 0.1})
    all_swept(folder, RAMP)
    table = sweeps.sweep(folder, 4)
    others = [sweeps.sweep(folder, 8), sweeps.sweep_diloco(folder, 4)]
    assert sweeps.best(folder, [table]) == "mean, nesterov 0.7, 0.5, lr 0.0014"
    assert sweeps.best(folder, [table, *others]) == RAMP


def test_sweeps_use_seeds_and_text_that_no_table_uses(tmp_path: Path) -> None:
    tables, sweeps, folder = script("tables"), script("sweeps"), ResultFolder(tmp_path)
    tuned = sweeps.sweep_rate(folder).trials(2)
    assert {trial.seed for trial in tuned} == {100, 101}
    assert {trial.training.judged_on for trial in tuned} == {"tuning"}
    swept(folder, "sweep-rate", "lr 0.002")
    all_swept(folder, RAMP)
    told = tables.early(folder).trials(5)
    assert {trial.seed for trial in told} == {0, 1, 2, 3, 4}
    assert {trial.training.judged_on for trial in told} == {"test"}


def test_the_queue_names_tables_that_exist() -> None:
    tables = script("tables")
    assert {name for name, _ in tables.QUEUE} <= set(tables.TABLES)


def test_the_cost_is_said_and_done_trials_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, folder = script("study"), ResultFolder(tmp_path)
    table = script("sweeps").sweep_rate(folder)
    study.do(table, 2, folder, dry=True)
    first = capsys.readouterr().out
    assert "10 trials to do, 20.5 million tokens" in first
    keep(folder, {table.trials(1)[0]: 1.0})
    study.do(table, 2, folder, dry=True)
    assert "9 trials to do" in capsys.readouterr().out


def test_the_report_pairs_seeds_and_says_what_is_not_resolved(tmp_path: Path) -> None:
    report, sweeps = script("report"), script("sweeps")
    folder = ResultFolder(tmp_path)
    table = sweeps.sweep_rate(folder)
    low, middle = table.rows["lr 0.001"], table.rows["lr 0.002"]
    keep(folder, {low.with_seed(seed): 1.0 for seed in table.seeds})
    keep(folder, {middle.with_seed(100): 1.02, middle.with_seed(101): 0.99})
    text = report._text(folder, "sweep-rate")
    assert "| lr 0.002 | 1.0050 | +0.50 % ± 19.06, not resolved | 2 |" in text
    assert "Not measured yet: lr 0.0014, lr 0.0028, lr 0.004." in text
    assert "edge" not in text, "nothing is known of the others"


def test_a_sweep_that_is_best_at_its_edge_says_so(tmp_path: Path) -> None:
    report, sweeps, folder = script("report"), script("sweeps"), ResultFolder(tmp_path)
    for place, trial in enumerate(sweeps.sweep_rate(folder).rows.values()):
        keep(folder, {trial.with_seed(100): 1.0 + 0.1 * place})
    assert "The best row is at an edge of what was tried." in report._text(folder, "sweep-rate")


def test_rows_of_another_group_are_compared_within_it(tmp_path: Path) -> None:
    tables, folder = script("tables"), ResultFolder(tmp_path)
    swept(folder, "sweep-rate", "lr 0.002")
    all_swept(folder, RAMP)
    references = tables.failures(folder).references
    assert references["M = 4, 1.2 million chips"] == references["M = 4, none"] == "M = 4, none"
    sizes = tables.sizes(folder)
    assert sizes.references["tiny: decoupled, M = 4"] == "tiny: data-parallel"
    assert set(sizes.references.values()) <= set(sizes.rows)


def test_the_page_has_a_place_for_every_table() -> None:
    page = (QUALITY.parents[1] / "docs" / "quality.md").read_text(encoding="utf-8")
    for name in script("tables").TABLES:
        assert page.count(f"<!-- table {name} -->") == 1, name


def test_stored_results_are_found_by_the_settings_of_today() -> None:
    """Else a setting was added or renamed: name it in `compare.trial.ADDED`."""
    folder = ResultFolder(script("report").RESULTS)
    trial = script("sweeps").sweep_rate(folder).rows["lr 0.002"].with_seed(100)
    assert folder.find(trial) is not None
