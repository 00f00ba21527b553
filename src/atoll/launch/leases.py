"""How much data a run started here leases, worked out from the data itself.

`[run] dataset_items` must be what every learner counts, so a run file that does not say it gets
the size of its training data, and leases that last a while: long enough that two of them bridge a
short cut of the link, short enough that everybody has some of every pass.
"""

from __future__ import annotations

from dataclasses import replace

from atoll.runfile.settings import RunFile
from atoll.train.sources import load_sources

STEPS_PER_LEASE = 64
PIECES_PER_LEARNER = 8


def with_leases(run_file: RunFile) -> RunFile:
    """The same run, its data leased. A run that says how its data is dealt out stays as it is, and
    so does one that wants no leases.
    """
    run, train = run_file.syncer.run, run_file.train
    if run.dataset_items or run.num_streams or not train.data.leases:
        return run_file
    sources = load_sources(train.data, train.model.context, train.model.vocab_size)
    num_items = len(sources.train)
    fair = num_items // (PIECES_PER_LEARNER * run_file.syncer.protocol.M)
    steps = max(1, min(STEPS_PER_LEASE, fair // train.batch_size))
    lease_items = run.lease_items or steps * train.batch_size
    run = replace(run, dataset_items=num_items, lease_items=lease_items)
    return replace(run_file, syncer=replace(run_file.syncer, run=run))


def with_leases_or_why(run_file: RunFile) -> tuple[RunFile, str]:
    """As `with_leases`, for a place that need not have the data; and why there are no leases."""
    try:
        return with_leases(run_file), ""
    except (OSError, ValueError, ImportError) as error:
        return run_file, (
            "data is not leased, each learner reads all of it, for it cannot be counted here "
            f"({error}). To lease it, begin the run with dataset_items = its size in [run]"
        )
