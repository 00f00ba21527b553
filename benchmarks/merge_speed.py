"""How fast a fragment merges, against what copying the same bytes costs in the same run.

Eight contributions into one fragment of 16M parameters, per codec: the average (contributions in,
bf16 displacement out; norms known, as they are computed when each contribution arrives), eager and
compiled; the sums of squares on arrival; the whole merge with outer step, published chain and
digest; and the codecs both ways.

The bound: RDA must read every payload once, write the fp32 sum, read it for its norm, read it
again to scale it, and write the bf16 displacement: M * payload + 14 bytes per parameter. (A mean
needs only M * payload + 2.) `bound` is the time that torch's copy between two large buffers takes
to read and write that many bytes together, with the same number of threads; it is measured next
to each merge, in turn (A B A B), because a shared machine's speed drifts.

    python benchmarks/merge_speed.py [--threads 1] [--repeats 9] [--numel 16777216]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from _common import Spread, in_turn, processor, seconds, spread, write_results
from torch import Tensor

from atoll.fragments import Fragment, Piece
from atoll.merge.averaging import AveragingSettings, Buffers, Share, average
from atoll.merge.backends import EAGER, Backend, CompiledBackend
from atoll.merge.codecs import CODECS, Codec, decode, encode, encoded_bytes, split
from atoll.merge.merge import Contribution, FragmentMerger, MergeSettings

NUM_CONTRIBUTIONS = 8
COPY_BUFFER_BYTES = 1 << 28
RDA = AveragingSettings("rda")
"""The dearer of the rules."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    codec: Codec
    backend: str
    touched_bytes: int
    time: Spread
    bound: Spread

    @property
    def share_of_bound(self) -> float:
        return self.bound.median_s / self.time.median_s


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    compiled = CompiledBackend()
    compile_s = {codec: warm_s(compiled, codec) for codec in CODECS}
    bench = Bench(transformer_fragment(arguments.numel), compiled, arguments.repeats)
    print(f"{'what':14} {'codec':5} {'backend':9} {'min':>8} {'median':>8} {'max':>8}   of bound")
    rows = [row for codec in CODECS for row in bench.rows(codec)]
    write_json(arguments, rows, compile_s)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--numel", type=int, default=1 << 24)
    return parser.parse_args()


def transformer_fragment(numel: int) -> Fragment:
    """Matrices of 1024 x 4096 with a vector of 1000 after each, so bodies have edges."""
    pieces: list[Piece] = []
    offset = 0
    while offset < numel:
        for kind, wanted in (("matrix", 1 << 22), ("vector", 1000)):
            size = min(wanted, numel - offset)
            if size > 0:
                name = f"tensor{len(pieces)}"
                pieces.append(Piece(name, kind, False, 0, 1, offset, size))  # type: ignore[arg-type]
                offset += size
    return Fragment(tuple(pieces))


class Bench:
    """The work that is timed, over one fragment."""

    def __init__(self, fragment: Fragment, compiled: CompiledBackend, repeats: int) -> None:
        self.fragment = fragment
        self.numel = fragment.numel
        self.compiled = compiled
        self.repeats = repeats
        self.out = torch.zeros(self.numel)
        self.buffers = Buffers.for_fragment(fragment)
        self.source = torch.ones(COPY_BUFFER_BYTES, dtype=torch.uint8)
        self.target = torch.zeros(COPY_BUFFER_BYTES, dtype=torch.uint8)

    def rows(self, codec: Codec) -> list[Row]:
        torch.manual_seed(0)
        vectors = [1e-3 * torch.randn(self.numel) for _ in range(NUM_CONTRIBUTIONS)]
        payloads = [encode(codec, vector) for vector in vectors]
        payload_bytes = encoded_bytes(codec, self.numel)
        both_bytes = payload_bytes + 4 * self.numel
        rows = []
        for backend in (self.compiled, EAGER):
            rows += [
                self.row(
                    "average",
                    codec,
                    backend.name,
                    self.averaging(codec, payloads, backend),
                    NUM_CONTRIBUTIONS * payload_bytes + 14 * self.numel,
                ),
                self.row(
                    "whole merge",
                    codec,
                    backend.name,
                    self.whole(codec, payloads, backend),
                    NUM_CONTRIBUTIONS * payload_bytes + 14 * self.numel,
                ),
                self.row(
                    "arrival sums",
                    codec,
                    backend.name,
                    self.sums(codec, payloads[0], backend),
                    payload_bytes,
                ),
            ]
        out = self.out
        rows.append(
            self.row("encode", codec, "eager", lambda: encode(codec, vectors[0]), both_bytes)
        )
        decoding = lambda: decode(codec, payloads[0], self.numel, out)  # noqa: E731
        rows.append(self.row("decode", codec, "eager", decoding, both_bytes))
        return rows

    def averaging(
        self, codec: Codec, payloads: Sequence[Tensor], backend: Backend
    ) -> Callable[[], object]:
        merger = FragmentMerger(self.fragment, MergeSettings(RDA), backend)
        shares = [
            Share(
                codec,
                split(codec, payload, self.numel),
                1.0 + index,
                1.0,
                merger.sums_of_squares("", codec, payload),
            )
            for index, payload in enumerate(payloads)
        ]
        return lambda: average(self.fragment, shares, RDA, backend, self.buffers)

    def whole(
        self, codec: Codec, payloads: Sequence[Tensor], backend: Backend
    ) -> Callable[[], object]:
        merger = FragmentMerger(self.fragment, MergeSettings(RDA), backend)
        arrived = [
            Contribution(
                str(index),
                codec,
                payload,
                1.0 + index,
                sums=merger.sums_of_squares("", codec, payload),
            )
            for index, payload in enumerate(payloads)
        ]
        state = merger.initial(torch.zeros(self.numel))
        assert merger.merge(state, arrived).backend == backend.name
        return lambda: merger.merge(state, arrived)

    def sums(self, codec: Codec, payload: Tensor, backend: Backend) -> Callable[[], object]:
        merger = FragmentMerger(self.fragment, MergeSettings(RDA), backend)
        return lambda: merger.sums_of_squares("", codec, payload)

    def row(
        self, what: str, codec: Codec, backend: str, work: Callable[[], object], touched_bytes: int
    ) -> Row:
        work()
        self.copy(touched_bytes)
        times, bounds = in_turn((work, lambda: self.copy(touched_bytes)), self.repeats)
        row = Row(
            what,
            codec,
            backend,
            touched_bytes,
            spread(times),
            spread(bounds),
        )
        show(row)
        return row

    def copy(self, touched_bytes: int) -> None:
        """Reads and writes that many bytes together: half of them are copied."""
        left = touched_bytes // 2
        while left > 0:
            part = min(left, COPY_BUFFER_BYTES)
            self.target[:part].copy_(self.source[:part])
            left -= part


def warm_s(compiled: CompiledBackend, codec: Codec) -> float:
    """Seconds that compiling for this codec takes."""
    return seconds(lambda: compiled.warm(codec, NUM_CONTRIBUTIONS))


def show(row: Row) -> None:
    times = (row.time.min_s, row.time.median_s, row.time.max_s)
    shown = " ".join(f"{1e3 * value:6.1f}ms" for value in times)
    print(
        f"{row.what:14} {row.codec:5} {row.backend:9} {shown}   {row.share_of_bound:6.0%}",
        flush=True,
    )


def write_json(
    arguments: argparse.Namespace, rows: Sequence[Row], compile_s: dict[Codec, float]
) -> None:
    hardware = f"{processor()}-{arguments.threads}-threads"
    report = {
        "hardware": hardware,
        "torch": torch.__version__,
        "numel": arguments.numel,
        "num_contributions": NUM_CONTRIBUTIONS,
        "repeats": arguments.repeats,
        "bound": "memory copy that reads and writes touched_bytes together",
        "compile_s": compile_s,
        "rows": [asdict(row) | {"share_of_bound": row.share_of_bound} for row in rows],
    }
    write_results("merge_speed", hardware, report)


if __name__ == "__main__":
    main()
