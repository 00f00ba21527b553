"""What a training loop takes from Atoll: `join`, what it returns, and schedules by progress.

Parameters change only inside `join()` and `Learner.step()`. `step()` never blocks; `join()` and
`close()` may, each with a deadline and a reason.
"""

from atoll.learner.errors import FerryDiedError, JoinError, LearnerOverError
from atoll.learner.joining import IslandOptions, join
from atoll.learner.learner import Learner
from atoll.learner.schedule import lr_lambda

__all__ = [
    "FerryDiedError",
    "IslandOptions",
    "JoinError",
    "Learner",
    "LearnerOverError",
    "join",
    "lr_lambda",
]
