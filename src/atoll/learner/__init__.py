"""What a training loop takes from Atoll: `join`, what it returns, and schedules by progress.

Parameters change only inside `join()` and `Learner.step()`. `step()` never blocks; `join()` and
`close()` may, each with a deadline and a reason.
"""

from atoll.learner.errors import DataError, FerryDiedError, JoinError, LearnerOverError
from atoll.learner.joining import IslandOptions, join
from atoll.learner.learner import Learner
from atoll.learner.restoring import Restored
from atoll.learner.schedule import lr_lambda
from atoll.learner.shards import Shard

__all__ = [
    "DataError",
    "FerryDiedError",
    "IslandOptions",
    "JoinError",
    "Learner",
    "LearnerOverError",
    "Restored",
    "Shard",
    "join",
    "lr_lambda",
]
