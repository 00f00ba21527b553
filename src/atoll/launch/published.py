"""The held-out loss of the published parameters, measured while a run goes on.

Read by a follower that cannot change anything, and written to the sinks that the run file asks
for. A syncer that does not answer costs a measurement, not the run.
"""

from __future__ import annotations

from atoll.access.invite import read_invite
from atoll.ferry.errors import FerryError
from atoll.ferry.follower import Follower, follow_run
from atoll.fragments.model import tensors_of
from atoll.launch.folder import RunFolder
from atoll.observe.sinks import Sinks, Subject
from atoll.runfile.settings import RunFile, to_plain
from atoll.train.model import build_model
from atoll.train.sources import load_sources
from atoll.train.step import evaluate

POLL_S = 10.0


class PublishedLoss:
    """`measure` at every look; `trouble` says why the last one gave no number."""

    def __init__(self, folder: RunFolder, run_file: RunFile):
        train = run_file.train
        self.trouble = ""
        self._folder = folder
        subject = Subject(run_file.name, folder.root, to_plain(run_file))
        self._sinks = Sinks(run_file.observe, subject, folder.root / "published.jsonl")
        self._train = train
        self._model = build_model(train.model, train.seed)
        self._sources = load_sources(train.data, train.model.context, train.model.vocab_size)
        self._follower: Follower | None = None
        self._last = (0, 0.0)

    @property
    def num_params(self) -> int:
        """Parameters of the model."""
        return self._model.num_params

    @property
    def data(self) -> str:
        """What is trained on, in words."""
        return self._sources.train.description

    def of_initial(self) -> float:
        """Of the weights that the seed draws."""
        return self._evaluate()

    def measure(self, tokens: int, seconds: float) -> float:
        """Of the newest published versions; not-a-number where they could not be had."""
        try:
            if self._follower is None:
                self._follower = follow_run(read_invite(self._folder.invite), POLL_S)
            self._follower.poll(POLL_S)
            self._follower.load_into(tensors_of(self._model))
        except FerryError as error:
            self.trouble = f"could not read the published parameters: {error}"
            self._let_go()
            return float("nan")
        loss = self._evaluate()
        (before, before_s), self._last = self._last, (tokens, seconds)
        tokens_per_s = (tokens - before) / (seconds - before_s) if seconds > before_s else 0.0
        figures = {"seconds": round(seconds, 1), "tokens_per_s": round(tokens_per_s, 1)}
        self._sinks.write(tokens, {**figures, "loss": loss})
        return loss

    def close(self) -> None:
        """Let the follower go, and write what sinks hold back."""
        self._let_go()
        self._sinks.close()

    def _let_go(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _evaluate(self) -> float:
        train = self._train
        batches, size = train.num_evaluation_batches, train.batch_size
        return evaluate(self._model, self._sources.held_out, batches, size, train.step)
