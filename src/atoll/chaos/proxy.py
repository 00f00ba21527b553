"""Links between learners and a syncer that can be slow, lossy, or broken in either direction.

A TCP proxy that needs no root. It is a process of its own, so that it never holds the interpreter
lock of what passes through it:

    python -m atoll.chaos.proxy TARGET_PORT NUM_LINKS

prints one line of JSON, the ports that it listens at on 127.0.0.1, one for each link. Orders come
on standard input, one JSON object each: `{"links": [0], "up": {"mbit_s": 8}, "down": {}}` shapes
both directions of a link anew (`Shape` has the fields; `up` is towards the syncer), and
`{"links": [0], "act": "reset"}` or `"half_open"` does something to the connections there are.
Each order is answered by a line, `ok`, once it holds. The end of standard input ends the process,
which first lets the processes go on that it was told of as frozen (`{"frozen": [pid, ...]}`): so
none stays behind when whoever froze them is killed.

Loss is what a TCP connection makes of it: bytes are late, never gone. Must never look into bytes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 128 << 10
PACKET_BYTES = 1460
CREDIT_S = 0.005
"""Time that was slept too long is made up for, up to this."""
LOOK_S = 0.05
"""How soon a closed connection is let go although its direction passes nothing."""
HELD_BYTES = 8 << 20
"""Most that may be under way in one direction of a connection with a delay."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One direction of a link."""

    mbit_s: float = 0.0
    """Cap over all its connections together; 0 for none."""
    delay_s: float = 0.0
    """How much later each byte arrives."""
    loss: float = 0.0
    """Share of packets that are lost on the way and sent again, from 0 to below 1."""
    again_s: float = 0.2
    """How long a connection stands still for a lost packet."""
    cut: bool = False
    """Nothing passes, and nobody is told."""


class Direction:
    """One direction of a link: its shape now, shared by all its connections."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.shape = shape
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._free_at_s = 0.0
        self._passes = threading.Event()
        self.put(shape)

    def put(self, shape: Shape) -> None:
        """From now on it is like this."""
        with self._lock:
            self.shape = shape
        if shape.cut:
            self._passes.clear()
        else:
            self._passes.set()

    def wait_whole(self, until: threading.Event) -> None:
        """Until it is not cut, or the event is set."""
        while not until.is_set() and not self._passes.wait(LOOK_S):
            pass

    def wait_s(self, num_bytes: int, now_s: float) -> float:
        """How long so many bytes have to wait for their turn and for lost packets."""
        with self._lock:
            shape, wait_s = self.shape, 0.0
            if shape.mbit_s > 0:
                took_s = num_bytes / (shape.mbit_s * 1e6 / 8)
                self._free_at_s = max(self._free_at_s, now_s - CREDIT_S) + took_s
                wait_s = self._free_at_s - now_s
            if shape.loss > 0:
                packets = -(-num_bytes // PACKET_BYTES)
                lost = len([1 for _ in range(packets) if self._dice.random() < shape.loss])
                wait_s += lost * shape.again_s
            return wait_s


@dataclass(eq=False)
class Connection:
    """One connection through a link: the learner's end, the syncer's end."""

    near: socket.socket
    far: socket.socket
    over: threading.Event = field(default_factory=threading.Event)
    far_is_gone: bool = False

    def reset(self) -> None:
        """Both ends hear at once that it broke."""
        self.over.set()
        for end in (self.near, self.far):
            _break(end)

    def half_open(self) -> None:
        """The syncer's end hears that it is over, the learner's end never hears anything."""
        self.far_is_gone = True
        _break(self.far)


class Link:
    """What one learner has to the syncer: a listener, and connections through it."""

    def __init__(self, port: int, number: int = 0) -> None:
        self.up, self.down = Direction(Shape(), 2 * number), Direction(Shape(), 2 * number + 1)
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._connections: list[Connection] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def serve(self) -> None:
        """Take connections until the process ends."""
        while True:
            near, _ = self._listener.accept()
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def act(self, what: str) -> None:
        """`reset` or `half_open` all connections there are."""
        with self._lock:
            there = list(self._connections)
        for each in there:
            getattr(each, what)()

    def _connect(self, near: socket.socket) -> None:
        """A cut link lets nobody through: the learner waits until it gives up, as on a real one."""
        given_up = threading.Event()
        for direction in (self.up, self.down):
            direction.wait_whole(given_up)
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            _break(near)
            near.close()
            return
        connection = Connection(near, far)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.append(connection)
        up = threading.Thread(target=self._pump, args=(connection, True), daemon=True)
        up.start()
        self._pump(connection, False)
        up.join()
        with self._lock:
            self._connections.remove(connection)
        near.close()
        far.close()

    def _pump(self, connection: Connection, is_up: bool) -> None:
        """Pass bytes on in one direction until its source ends."""
        direction = self.up if is_up else self.down
        source, target = connection.near, connection.far
        if not is_up:
            source, target = target, source
        late = _Late(target)
        buffer = memoryview(bytearray(CHUNK_BYTES))
        with suppress(OSError):
            while num_bytes := source.recv_into(buffer):
                direction.wait_whole(connection.over)
                wait_s = direction.wait_s(num_bytes, time.monotonic())
                if wait_s > 0:
                    connection.over.wait(wait_s)
                if not (is_up and connection.far_is_gone):
                    late.send(buffer[:num_bytes], direction.shape.delay_s)
        late.close()
        direction.wait_whole(connection.over)  # the word that it is over takes the same way
        if not connection.far_is_gone:
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)


class _Late:
    """Sends at once, or, once there was a delay, from a thread that keeps the order."""

    def __init__(self, target: socket.socket) -> None:
        self._target = target
        self._queue: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()
        self._held_bytes = 0
        self._thread: threading.Thread | None = None
        self._closing = self._broken = False

    def send(self, data: memoryview, delay_s: float) -> None:
        """Pass it on `delay_s` later. OSError when the target is gone."""
        if self._thread is None and delay_s <= 0:
            self._target.sendall(data)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        with self._changed:
            if self._broken:
                raise OSError("the target is gone")
            while self._held_bytes > HELD_BYTES and not self._broken:
                self._changed.wait(LOOK_S)
            self._queue.append((time.monotonic() + delay_s, bytes(data)))
            self._held_bytes += len(data)
            self._changed.notify_all()

    def close(self) -> None:
        """What is under way still arrives."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                at_s, data = self._queue.popleft()
            time.sleep(max(0.0, at_s - time.monotonic()))
            try:
                self._target.sendall(data)
            except OSError:
                self._broken = True
                return
            with self._changed:
                self._held_bytes -= len(data)
                self._changed.notify_all()


def _break(end: socket.socket) -> None:
    """End a connection for whoever reads or writes it, with a reset to the other side."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def obey(links: list[Link], order: dict[str, object]) -> None:
    """One order; a mistake in it is ours."""
    named = order.get("links", [])
    assert isinstance(named, list), "links are named in a list"
    for number in named:
        link = links[number]
        for way, direction in (("up", link.up), ("down", link.down)):
            shape = order.get(way)
            if isinstance(shape, dict):
                direction.put(Shape(**shape))
        act = order.get("act")
        if act is not None:
            assert act in ("reset", "half_open"), f"there is no act {act!r}"
            link.act(str(act))


def main() -> None:
    """Serve until standard input ends."""
    port, num_links = int(sys.argv[1]), int(sys.argv[2])
    links = [Link(port, number) for number in range(num_links)]
    for link in links:
        threading.Thread(target=link.serve, daemon=True).start()
    print(json.dumps([link.port for link in links]), flush=True)
    frozen: list[int] = []
    for line in sys.stdin:
        order = json.loads(line)
        frozen = order.get("frozen", frozen)
        obey(links, order)
        print("ok", flush=True)
    for pid in frozen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    main()
