"""Virtual time: one order for one seed, and no time that passes by itself."""

from __future__ import annotations

from atoll.simulator.clock import Clock


def test_things_happen_in_order_of_time_then_priority_then_as_they_were_scheduled() -> None:
    clock, seen = Clock(), []
    clock.at(2.0, lambda: seen.append("late"))
    clock.at(1.0, lambda: seen.append("timer"), priority=1)
    clock.at(1.0, lambda: seen.append("first"))
    clock.at(1.0, lambda: seen.append("second"))
    clock.run_until(5.0)
    assert seen == ["first", "second", "timer", "late"]
    assert (clock.now_s, clock.num_run) == (5.0, 4)


def test_time_stands_still_while_something_happens() -> None:
    clock, seen = Clock(), []
    clock.after(3.0, lambda: seen.append(clock.now_s))
    clock.run_until(10.0)
    assert seen == [3.0]


def test_what_is_scheduled_meanwhile_happens_in_its_turn() -> None:
    clock, seen = Clock(), []

    def step() -> None:
        seen.append(clock.now_s)
        if len(seen) < 5:
            clock.after(1.0, step)

    clock.at(1.0, step)
    clock.run_until(3.0)
    assert seen == [1.0, 2.0, 3.0], "up to and at the end"
    clock.run_until(10.0)
    assert seen == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_the_past_is_now() -> None:
    clock, seen = Clock(now_s=7.0), []
    clock.at(1.0, lambda: seen.append(clock.now_s))
    assert clock.run_one()
    assert seen == [7.0]
    assert not clock.run_one(), "nothing is left"
