"""Who works on which data: index ranges of passes over a data set, or streams with a position.

At least once: a piece of a pass is always fresh, returned, held, or done, and it is done only when
the learner has finished it and all work up to that moment was merged into every fragment. A lease
of a learner that is gone returns at the oldest position not merged yet; what the learner had
trained beyond that is done again by somebody, and counted.

A piece is never split and never joined, so (pass, end) names it, and a restart can take a piece
out of wherever older knowledge has it.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

NO_STREAM = -1
MOST_MARKS = 64  # even: every second of one more includes the first and the newest


@dataclass(slots=True)
class Lease:
    """A piece of data in the hands of one life of a learner.

    `marks` say: when the learner's work up to `tokens` is merged, the lease is safe up to
    `position`. `safe` is the position up to which everything is, `reached` the last one told, at
    `tokens` of the learner's own count.
    """

    number: int
    learner: str
    incarnation: int
    turn: int
    first: int
    stop: int
    stream: int
    start: str
    safe: str
    reached: str
    tokens: int = 0
    begun: bool = False
    finished: bool = False
    durable: bool = False
    marks: list[tuple[int, str]] = field(default_factory=list)
    stride: int = 1
    skipped: int = 0

    def mark(self, tokens: int, at: str) -> None:
        """Keep a position; while nothing settles only every `stride`th, and always the newest.

        Fewer marks are coarser, so a lease returns from further back, never from too far ahead.
        """
        if not self.marks:
            self.stride, self.skipped = 1, 0
        again = bool(self.marks) and self.marks[-1][0] == tokens
        if again or (self.marks and self.skipped + 1 < self.stride):
            self.marks[-1] = (tokens, at)
            self.skipped += 0 if again else 1
            return
        self.marks.append((tokens, at))
        self.skipped = 0
        if len(self.marks) > MOST_MARKS:
            self.marks = self.marks[::2]
            self.stride *= 2

    @property
    def done(self) -> bool:
        """Consumed to the end, and all of it merged."""
        return self.finished and not self.marks


@dataclass(slots=True)
class Stream:
    """One shard of a stream: the pass it is in, and where the next lease begins."""

    turn: int = 0
    position: str = ""
    free: bool = True


@dataclass(slots=True)
class LeaseBook:
    """All leases of a run: `items` cut into pieces of `size`, or streams, or neither."""

    items: int = 0
    size: int = 0
    streams: list[Stream] = field(default_factory=list)
    turn: int = 0
    next_index: int = 0
    returned: list[tuple[int, int, int]] = field(default_factory=list)
    held: dict[int, Lease] = field(default_factory=dict)
    by_life: dict[int, list[int]] = field(default_factory=dict)
    next_number: int = 1
    repeats: int = 0
    stream_repeats: int = 0

    @property
    def offers_data(self) -> bool:
        """False when learners bring their own data."""
        return self.items > 0 or bool(self.streams)

    def grant(self, learner: str, incarnation: int) -> Lease | None:
        """The oldest returned piece, or a fresh one; nothing when every stream is held."""
        assert self.offers_data, "learners bring their own data"
        if self.streams:
            index = self._free_stream()
            if index < 0:
                return None
            stream = self.streams[index]
            piece = (stream.turn, 0, 0)
            return self._hold(learner, incarnation, piece, index, stream.position)
        piece = self.returned.pop(0) if self.returned else self._fresh()
        return self._hold(learner, incarnation, piece, NO_STREAM, str(piece[1]))

    def position(self, incarnation: int, number: int, tokens: int, at: str, finished: bool) -> str:
        """At `tokens` of its own count a learner had come to `at`. Returns what is wrong, or "".

        What is older than something already told is passed over, and so is a lease that is done
        or was given back: learners say their positions again and again.
        """
        lease = self.held.get(number)
        if lease is None and 0 < number < self.next_number:
            return ""
        if lease is None or lease.incarnation != incarnation:
            return f"lease {number} is not in its hands"
        if (lease.begun and tokens < lease.tokens) or lease.finished:
            return ""
        wrong = self._wrong(lease, tokens, at, finished)
        if wrong:
            return wrong
        lease.mark(tokens, at)
        lease.begun, lease.tokens, lease.reached = True, tokens, at
        lease.finished = finished or (lease.stream == NO_STREAM and int(at) == lease.stop)
        assert lease.marks[-1] == (tokens, at), "the newest mark is never thinned out"
        return ""

    def settle(self, incarnation: int, tokens: int) -> list[int]:
        """All work of a life up to `tokens` is merged everywhere. Returns the leases now done."""
        done = []
        for number in self.by_life.get(incarnation, []):
            lease = self.held[number]
            count = 0
            while count < len(lease.marks) and lease.marks[count][0] <= tokens:
                lease.safe = lease.marks[count][1]
                count += 1
            del lease.marks[:count]
            if lease.done:
                done.append(number)
        return done

    def finish(self, number: int) -> None:
        """A lease is done: an index range is out of its pass, a stream begins its next pass."""
        lease = self._let_go(number)
        if lease is not None and lease.stream != NO_STREAM:
            stream = self.streams[lease.stream]
            stream.turn, stream.position, stream.free = lease.turn + 1, "", True

    def give_back(self, incarnation: int) -> int:
        """A life is over: its leases return where its merged work ends. Returns how many."""
        numbers = list(self.by_life.get(incarnation, []))
        for number in numbers:
            if self.held[number].done:
                self.finish(number)
                continue
            lease = self._let_go(number)
            assert lease is not None, "a life's list names only leases that are held"
            self._count_repeats(lease)
            if lease.stream != NO_STREAM:
                stream = self.streams[lease.stream]
                stream.position, stream.free = lease.safe, True
            elif int(lease.safe) < lease.stop:
                insort(self.returned, (lease.turn, int(lease.safe), lease.stop))
        return len(numbers)

    def waiting(self, incarnation: int) -> list[Lease]:
        """What a life holds and has not begun, as far as it told."""
        numbers = self.by_life.get(incarnation, [])
        return [self.held[number] for number in numbers if not self.held[number].begun]

    def take_again(self, lease: Lease) -> None:
        """A grant read back from durable records: whoever else has the piece loses it.

        One that is known already changes nothing, and stays with whoever has the piece by now.
        """
        if lease.number < self.next_number:
            return
        self.next_number = lease.number + 1
        if lease.stream != NO_STREAM:
            self._take_from_holders(lease)
            stream = self.streams[lease.stream]
            stream.turn, stream.position, stream.free = lease.turn, lease.start, False
        elif not self._take_returned(lease) and not self._take_from_holders(lease):
            self._take_fresh(lease)
        self._put(lease)

    def _take_returned(self, lease: Lease) -> bool:
        for index, (turn, _, stop) in enumerate(self.returned):
            if (turn, stop) == (lease.turn, lease.stop):
                del self.returned[index]
                return True
        return False

    def _take_from_holders(self, lease: Lease) -> bool:
        piece = (lease.stream, lease.turn if lease.stream == NO_STREAM else 0, lease.stop)
        for number, other in list(self.held.items()):
            turn = other.turn if other.stream == NO_STREAM else 0
            if (other.stream, turn, other.stop) == piece:
                self._let_go(number)
                return True
        return False

    def _take_fresh(self, lease: Lease) -> None:
        while (self.turn, self.next_index) < (lease.turn, lease.stop):
            piece = self._fresh()
            if (piece[0], piece[2]) != (lease.turn, lease.stop):
                insort(self.returned, piece)

    def _fresh(self) -> tuple[int, int, int]:
        first = self.next_index
        stop = min(first + self.size, self.items)
        piece = (self.turn, first, stop)
        self.next_index = stop
        if stop == self.items:
            self.turn, self.next_index = self.turn + 1, 0
        assert piece[1] < piece[2], "a piece holds at least one index"
        return piece

    def _free_stream(self) -> int:
        free = [(each.turn, index) for index, each in enumerate(self.streams) if each.free]
        return min(free)[1] if free else -1

    def _hold(
        self, learner: str, incarnation: int, piece: tuple[int, int, int], stream: int, start: str
    ) -> Lease:
        turn, first, stop = piece
        number = self.next_number
        self.next_number += 1
        if stream != NO_STREAM:
            self.streams[stream].free = False
        lease = Lease(number, learner, incarnation, turn, first, stop, stream, start, start, start)
        self._put(lease)
        return lease

    def _put(self, lease: Lease) -> None:
        self.held[lease.number] = lease
        self.by_life.setdefault(lease.incarnation, []).append(lease.number)

    def _let_go(self, number: int) -> Lease | None:
        lease = self.held.pop(number, None)
        if lease is not None:
            numbers = self.by_life[lease.incarnation]
            numbers.remove(number)
            if not numbers:
                del self.by_life[lease.incarnation]
        return lease

    def _count_repeats(self, lease: Lease) -> None:
        if lease.stream == NO_STREAM:
            self.repeats += int(lease.reached) - int(lease.safe)
        elif lease.reached != lease.safe:
            self.stream_repeats += 1

    def _wrong(self, lease: Lease, tokens: int, at: str, finished: bool) -> str:
        if tokens < 0:
            return f"{tokens} tokens"
        if lease.stream != NO_STREAM:
            return ""
        if not at.isdecimal() or not at.isascii() or len(at) > 18:
            return f"position {at[:40]!r} is not an index"
        if not int(lease.reached) <= int(at) <= lease.stop:
            return f"position {at} is not between {lease.reached} and {lease.stop}"
        if finished and int(at) != lease.stop:
            return f"lease {lease.number} cannot be finished at {at}, it ends at {lease.stop}"
        return ""
