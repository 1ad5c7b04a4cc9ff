"""Timing in turns, medians with bounds, and the file of results."""

import json
import statistics

import pytest

from tests.benchmarks.device import write_results
from tests.benchmarks.timing import (
    EXTRA_MEASUREMENTS,
    BoundChecker,
    Measurement,
    Timing,
    time_in_turns,
    with_more_rounds,
)


def timing(*over):
    """Make rounds of a base that takes two seconds and of another kind that takes `over` times as long."""
    return Timing({"base": [2.0] * len(over), "other": [2.0 * each for each in over]})


class TestMeasurement:
    def test_median_and_quartiles(self):
        found = Measurement.of([5.0, 1.0, 4.0, 2.0, 3.0])
        assert (found.value, found.quartiles, found.rounds) == (3, (2, 4), 5)
        found = Measurement.of([1.0, 2.0, 4.0, 8.0])
        assert (found.value, found.quartiles) == (3, (1.75, 5))  # a quarter of the way from 1 to 2, from 8 to 4
        assert Measurement.of([7.0]) == Measurement(7, (7, 7), 1)

    @pytest.mark.parametrize(
        ("value", "bound", "least", "kept"),
        [
            (1.02, 1.02, False, True),
            (1.021, 1.02, False, False),
            (1.6, 1.6, True, True),
            (1.59, 1.6, True, False),
            (float("nan"), 1.02, False, False),
            (float("nan"), 1.02, True, False),
            (9.0, None, False, None),
        ],
    )
    def test_the_bound(self, value, bound, least, kept):
        assert Measurement(value, (value, value), 1, bound, least).kept is kept

    def test_the_text(self):
        assert str(Measurement(1.0166, (0.99, 1.04), 5, 1.02)) == "1.017 [0.990, 1.040] <= 1.02"
        assert str(Measurement(1.0, (1.0, 1.0), 5, 1.02, at_least=True)) == "1.000 [1.000, 1.000] >= 1.02 NOT KEPT"
        assert str(Measurement(9100.4, (9000.0, 9200.0), 5, 9000, at_least=True)) == "9,100 [9,000, 9,200] >= 9,000"
        assert str(Measurement(1.5, (1.0, 2.0), 5)) == "1.500 [1.000, 2.000]"

    def test_the_file(self, tmp_path):
        path = tmp_path / "folder" / "speed.json"
        write_results(path, "cpu", {"cells": [{"over_sgd": Measurement(1.5, (1.0, 2.0), 5, 1.4)}]})
        read = json.loads(path.read_text())
        wanted = {"value": 1.5, "quartiles": [1, 2], "rounds": 5, "bound": 1.4, "at_least": False, "kept": False}
        assert read["cells"] == [{"over_sgd": wanted}]
        assert read["device"]["type"] == "cpu" and read.keys() == {"device", "command", "commit", "cells"}


def test_ratios_are_taken_within_rounds():
    found = Timing({"one": [2.0, 9.0, 4.0], "other": [1.0, 3.0, 8.0]})
    assert found.ratios("one", "other") == [2, 3, 0.5]
    assert found.median("one") == 4


class TestMoreRounds:
    def time(self, first, *more, bound=1.02):
        left = list(more)
        found = with_more_rounds(
            timing(*first),
            lambda: timing(*left.pop(0)),
            lambda t: Measurement.of(t.ratios("other", "base"), bound).kept,
        )
        return found.ratios("other", "base"), left

    def test_none_if_the_bound_holds_or_there_is_none(self):
        assert self.time([1.0, 1.01, 1.5], [9.0]) == ([1.0, 1.01, 1.5], [[9.0]])
        assert self.time([3.0], [1.0], bound=None) == ([3.0], [[1.0]])

    def test_all_rounds_count(self):
        """The smallest of the three medians, 1.00, is within the bound, but that of all rounds is 1.04."""
        rounds = [[1.04, 1.05, 1.04], [1.0, 1.0, 1.04], [1.04, 1.06, 1.05]]
        found, left = self.time(*rounds)
        assert found == pytest.approx([*rounds[0], *rounds[1], *rounds[2]]) and not left
        assert statistics.median(found) == pytest.approx(1.04)

    def test_measuring_does_not_stop_when_the_combined_median_is_within_the_bound(self):
        found, left = self.time([1.03, 1.03], [1.0, 1.0, 1.0], [5.0], [2.0])
        assert len(found) == 6 and left == [[2.0]]
        assert EXTRA_MEASUREMENTS == 2

    def test_the_peak_memory(self):
        assert (Timing({}, 3) + Timing({}, 5) + Timing({}, 4)).memory == 5


def test_every_other_round_is_in_reverse_order():
    order = []
    epochs = {name: lambda name=name: order.append(name) for name in "ab"}
    ticks = iter(range(100))
    found = time_in_turns(epochs, "cpu", rounds=3, warm_up=1, clock=lambda: float(next(ticks)))
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert found == Timing({"a": [1.0] * 3, "b": [1.0] * 3})


def test_rounds_continue_for_the_given_time():
    def timed(rounds, lasting):
        return len(time_in_turns({"a": lambda: None}, "cpu", rounds, lasting=lasting).seconds["a"])

    assert timed(3, lasting=0.0) == 3
    assert timed(3, lasting=0.05) > 3


def test_a_violated_bound_exits_with_an_error(capsys):
    checker = BoundChecker()
    checker("good", Measurement(1.0, (1.0, 1.0), 3, 1.02))
    checker("without", Measurement(9.0, (9.0, 9.0), 3))
    checker.exit_if_violated()
    checker("bad", Measurement(1.5, (1.4, 1.6), 3, 1.02))
    with pytest.raises(SystemExit, match="1"):
        checker.exit_if_violated()
    assert capsys.readouterr().out == "not kept: bad: 1.500 [1.400, 1.600] <= 1.02 NOT KEPT\n"
