"""A link between learners and a syncer: a TCP proxy that can be thin, or be cut.

Run as a process of its own, so that it never holds the interpreter lock of what is measured:

    python benchmarks/_proxy.py TARGET_PORT MBIT_S

It prints the port it listens at. `cut` on standard input stops all bytes in both directions without
telling anybody, `mend` lets them go on, its end ends the process. MBIT_S caps each direction over
all connections together; 0 is no cap.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress

CHUNK_BYTES = 128 << 10
CREDIT_S = 0.005
"""Time that was slept too long is made up for, up to this."""


class Line:
    """One direction."""

    def __init__(self, mbit_s: float) -> None:
        self.bytes_per_s = mbit_s * 1e6 / 8
        self.whole = threading.Event()
        self.whole.set()
        self._lock = threading.Lock()
        self._free_at_s = 0.0

    def pass_on(self, num_bytes: int) -> None:
        """Wait until so many bytes have passed."""
        self.whole.wait()
        if self.bytes_per_s <= 0:
            return
        with self._lock:
            now_s = time.monotonic()
            self._free_at_s = max(self._free_at_s, now_s - CREDIT_S) + num_bytes / self.bytes_per_s
            wait_s = self._free_at_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)


def pump(source: socket.socket, target: socket.socket, line: Line) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with suppress(OSError):
        while num_bytes := source.recv_into(buffer):
            line.pass_on(num_bytes)
            target.sendall(buffer[:num_bytes])
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def accept(listener: socket.socket, port: int, lines: tuple[Line, Line]) -> None:
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", port))
        except OSError:
            near.close()
            continue
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for way in ((near, far, lines[0]), (far, near, lines[1])):
            threading.Thread(target=pump, args=way, daemon=True).start()


def main() -> None:
    port, mbit_s = int(sys.argv[1]), float(sys.argv[2])
    lines = (Line(mbit_s), Line(mbit_s))
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener, port, lines), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    for word in sys.stdin:
        for line in lines:
            line.whole.clear() if word.strip() == "cut" else line.whole.set()


if __name__ == "__main__":
    main()
