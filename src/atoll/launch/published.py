"""The held-out loss of the published parameters, measured while a run goes on.

Read by a follower that cannot change anything; one line of JSON for each measurement, and
TensorBoard events where the `tensorboard` extra is installed. A syncer that does not answer costs a
measurement, not the run.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import Any

from atoll.access.invite import read_invite
from atoll.ferry.errors import FerryError
from atoll.ferry.follower import Follower, follow_run
from atoll.fragments.model import tensors_of
from atoll.launch.folder import RunFolder
from atoll.train.model import build_model
from atoll.train.settings import TrainSettings
from atoll.train.sources import load_sources
from atoll.train.step import evaluate

POLL_S = 10.0


class PublishedLoss:
    """`measure` at every look; `trouble` says why the last one gave no number."""

    def __init__(self, folder: RunFolder, train: TrainSettings):
        self.trouble = ""
        self._folder = folder
        self._train = train
        self._model = build_model(train.model, train.seed)
        self._sources = load_sources(train.data, train.model.context, train.model.vocab_size)
        self._follower: Follower | None = None
        self._events: Any = None

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
            self.close()
            return float("nan")
        loss = self._evaluate()
        self._keep({"tokens": tokens, "seconds": round(seconds, 1), "loss": loss})
        return loss

    def close(self) -> None:
        """Let the follower go, and write what TensorBoard holds back."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _keep(self, record: dict[str, Any]) -> None:
        with (self._folder.root / "published.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        if self._events is None and importlib.util.find_spec("tensorboard") is not None:
            board = importlib.import_module("torch.utils.tensorboard")
            self._events = board.SummaryWriter(str(self._folder.root / "tensorboard"))
        if self._events is not None:
            self._events.add_scalar("published/loss", record["loss"], record["tokens"])

    def _evaluate(self) -> float:
        train = self._train
        batches, size = train.num_evaluation_batches, train.batch_size
        return evaluate(self._model, self._sources.held_out, batches, size, train.step)
