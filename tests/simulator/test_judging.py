"""Held-out loss: parts that do not overlap, stretches that add up to the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atoll.simulator.judging import STRETCHES, Diverged, glance, judge, part_of
from atoll.train.model import build_model
from atoll.train.step import evaluate
from tiny_training import settings, sources

TRAIN = settings(1).train
SOURCES = sources()


def test_the_parts_are_the_whole_and_do_not_overlap() -> None:
    whole = SOURCES.held_out
    tuning, test = part_of(whole, "tuning"), part_of(whole, "test")
    assert len(tuning) + len(test) == len(part_of(whole, "all")) == len(whole)
    assert (tuning.window(len(tuning) - 1)[0] == whole.window(len(tuning) - 1)[0]).all()
    assert (test.window(0)[0] == whole.window(len(tuning))[0]).all()


def test_a_judgement_is_the_loss_over_every_window() -> None:
    model = build_model(TRAIN.model, 0)
    text = part_of(SOURCES.held_out, "test")
    found = judge(model, TRAIN, text)
    every = evaluate(model, text, len(text), 1, TRAIN.step)
    assert found.loss == pytest.approx(every, rel=1e-5)
    assert len(found.by_stretch) == STRETCHES
    assert min(found.by_stretch) < found.loss < max(found.by_stretch)


def test_a_glance_reads_few_windows() -> None:
    model = build_model(TRAIN.model, 0)
    few = replace(TRAIN, num_evaluation_batches=1)
    text = part_of(SOURCES.held_out, "all")
    assert glance(model, few, text) != pytest.approx(judge(model, few, text).loss, rel=1e-6)


def test_numbers_that_are_none_are_no_loss() -> None:
    model = build_model(TRAIN.model, 0)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged):
        glance(model, TRAIN, SOURCES.held_out)
