"""A few threads for transfers, each with a connection of its own.

A task is given the connection of the thread that runs it. What a task does not expect is handed to
`on_crash`, once, and must end the ferry: a transfer that nobody carries on would be a hidden wait.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from atoll.ferry.bulk import BulkConnection

Task = Callable[[BulkConnection], None]


class Workers:
    """Threads start with the first task."""

    def __init__(
        self,
        num_threads: int,
        connect: Callable[[], BulkConnection],
        on_crash: Callable[[BaseException], None],
    ):
        self.num_threads = num_threads
        self._connect = connect
        self._on_crash = on_crash
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._connections: list[BulkConnection] = []

    def submit(self, task: Task) -> None:
        """Run a task when a thread is free."""
        if not self._threads:
            self._start()
        self._tasks.put(task)

    def stop(self, limit_s: float = 0.0) -> None:
        """Break off what is under way, and wait so long for the threads to end.

        A thread that is in the middle of a tensor operation when the interpreter goes would take
        the process down with it.
        """
        self._stopping = True
        for _ in self._threads:
            self._tasks.put(None)
        for connection in list(self._connections):
            connection.abort()
        until_s = time.monotonic() + limit_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def follow(self) -> None:
        """Control came back, perhaps elsewhere: nobody is to wait where the syncer was."""
        for connection in list(self._connections):
            connection.follow()

    def _start(self) -> None:
        for number in range(self.num_threads):
            thread = threading.Thread(target=self._work, name=f"atoll-bulk-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        connection = self._connect()
        self._connections.append(connection)
        try:
            while (task := self._tasks.get()) is not None and not self._stopping:
                task(connection)
        except BaseException as error:  # noqa: BLE001  # the edge of a thread: the ferry must hear of it
            self._on_crash(error)
        finally:
            connection.close()
