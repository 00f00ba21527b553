"""Which fragment is due: by the pacing learner's steps, never by a clock.

For each fragment the pacing learner is the K-th fastest by steps since the fragment was last
called. When it has done H of them the fragment is due, so no fragment merges more often than every
H steps on any network (the launch floor); H grows over a fragment's first rounds where asked to.
First calls are staggered over one H, and calls keep a distance, so that after an outage the most
overdue fragment comes first and the rest follow.

Steps that a learner did while nobody heard of it do not count against calls made meanwhile: its
first report afterwards is where they begin. Reports cost O(1): each learner carries the least step
at which anything changes by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.settings import ProtocolSettings


@dataclass(slots=True)
class Track:
    """One learner's steps against the calls.

    `missed[index]`: the fragment was called while this learner did not count; so many steps after
    its next report it is due by it (0: it was not).
    """

    step: int
    counts: bool
    thresholds: list[int]
    ready: list[bool]
    missed: list[int]
    apart_at: int
    apart: bool = False
    returning: bool = False
    next_at: int = 0


@dataclass(slots=True)
class Schedule:
    """Due fragments of one shard, by index into the fragments that it owns."""

    fragments: list[int]
    num_due: list[int] = field(default_factory=list)
    last_called: list[int] = field(default_factory=list)
    periods: list[int] = field(default_factory=list)
    """H of each fragment until its next call."""
    num_apart: int = 0
    num_counted: int = 0
    num_calls: int = 0
    tracks: dict[str, Track] = field(default_factory=dict)

    @staticmethod
    def of(fragments: tuple[int, ...], settings: ProtocolSettings) -> Schedule:
        """A schedule in which nothing was called yet."""
        order = [settings.first_offset_steps(each) - 2 * settings.H for each in fragments]
        periods = [settings.period_steps(0)] * len(fragments)
        return Schedule(list(fragments), [0] * len(fragments), order, periods)

    def add(self, name: str, step: int, settings: ProtocolSettings) -> None:
        """A learner joins at its own `step`; it counts once it is live."""
        self.remove(name)
        thresholds = [
            step + settings.first_offset_steps(fragment) - settings.look_ahead
            if called < 0
            else step + period
            for fragment, called, period in zip(
                self.fragments, self.last_called, self.periods, strict=True
            )
        ]
        width = len(thresholds)
        self.tracks[name] = Track(step, False, thresholds, [False] * width, [0] * width, step)

    def remove(self, name: str) -> None:
        """A learner is gone."""
        if name in self.tracks:
            self.set_counts(name, False)
            del self.tracks[name]

    def set_counts(self, name: str, counts: bool) -> None:
        """Only live learners count towards what is due."""
        track = self.tracks[name]
        if track.counts == counts:
            return
        if counts:
            track.counts = track.returning = True
            self.num_counted += 1
            self._refresh(track)
            return
        for index, ready in enumerate(track.ready):
            self.num_due[index] -= int(ready)
        self.num_apart -= int(track.apart)
        self.num_counted -= 1
        track.counts, track.apart = False, False
        track.ready = [False] * len(track.ready)

    def report(self, name: str, step: int) -> bool:
        """A learner is at `step`. True when that may have made something due."""
        track = self.tracks[name]
        track.step = step
        if track.returning and track.counts:
            self._return(track)
            return True
        if not track.counts or step < track.next_at:
            return False
        self._refresh(track)
        return True

    def pick(self, quorum: int, blocked: list[bool]) -> int:
        """The most overdue fragment that may be called now, as index; -1 for none."""
        best = -1
        if self.num_apart < quorum:
            return best
        for index, num_due in enumerate(self.num_due):
            if num_due < quorum or blocked[index]:
                continue
            if best < 0 or self.last_called[index] < self.last_called[best]:
                best = index
        return best

    def called(self, index: int, period: int) -> None:
        """A fragment was called from everybody: all count their steps anew."""
        self.num_calls += 1
        self.last_called[index] = self.num_calls
        self.periods[index] = period
        self.num_due[index] = 0
        self.num_apart = 0
        distance = self._distance(period)
        for track in self.tracks.values():
            track.thresholds[index] = track.step + period
            track.ready[index] = False
            track.missed[index] = 0 if track.counts and not track.returning else period
            track.apart_at = track.step + distance
            track.apart = False
            if track.counts:
                self._refresh(track)

    def _distance(self, period: int) -> int:
        """Steps until the next call. Where a period is shorter than there are fragments, every
        second call (or fewer) comes at the same step as the one before it.
        """
        count = len(self.fragments)
        if period >= count:
            return period // count
        return (self.num_calls + 1) * period // count - self.num_calls * period // count

    def recovered(self, index: int, period: int) -> None:
        """A merge was read back from the log: the fragment was called after the snapshot."""
        self.num_calls += 1
        self.last_called[index] = self.num_calls
        self.periods[index] = period

    def restarted(self) -> None:
        """Calls since the snapshot are unknown, only their order: the newest waits all of H."""
        called = [index for index, number in enumerate(self.last_called) if number > 0]
        called.sort(key=lambda index: self.last_called[index])
        for name, track in self.tracks.items():
            self.set_counts(name, False)
            for rank, index in enumerate(called, start=1):
                track.missed[index] = -(-self.periods[index] * rank // len(called))

    def _return(self, track: Track) -> None:
        """The first report after a time in which nobody heard of this learner."""
        track.returning = False
        for index, steps in enumerate(track.missed):
            if steps:
                track.thresholds[index] = track.step + steps
                track.apart_at = track.step + 1
                self.num_due[index] -= int(track.ready[index])
                track.ready[index] = False
                track.missed[index] = 0
        self.num_apart -= int(track.apart)
        track.apart = False
        self._refresh(track)

    def _refresh(self, track: Track) -> None:
        for index, threshold in enumerate(track.thresholds):
            if not track.ready[index] and track.step >= threshold:
                track.ready[index] = True
                self.num_due[index] += 1
        if not track.apart and track.step >= track.apart_at:
            track.apart = True
            self.num_apart += 1
        self._aim(track)

    @staticmethod
    def _aim(track: Track) -> None:
        waiting = [t for t, ready in zip(track.thresholds, track.ready, strict=True) if not ready]
        if not track.apart:
            waiting.append(track.apart_at)
        track.next_at = min(waiting, default=1 << 62)
