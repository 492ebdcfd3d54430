"""What seed_everything and isolate_rng promise: the same draws again, and none that show."""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import pytest
import torch

from holdfast.errors import ConfigError
from holdfast.seed import isolate_rng, seed_everything


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    with isolate_rng():
        yield
    # What the function under test sets, monkeypatch does not know of.
    os.environ.pop("PL_GLOBAL_SEED", None)
    os.environ.pop("PL_SEED_WORKERS", None)


def draw():
    return random.random(), float(np.random.rand()), torch.rand(1).item()


class Noise(torch.utils.data.Dataset):
    """Each sample is what every generator of the worker draws."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return draw()


def test_one_seed_gives_the_same_draws_from_every_generator():
    """Python, NumPy and torch; another seed gives others."""
    seed_everything(7)
    first = draw()
    seed_everything(7)
    again = draw()
    seed_everything(8)
    other = draw()

    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_workers_draw_the_same_from_every_generator_and_each_its_own():
    """A loader with workers repeats itself after the same seed, and no two samples are equal."""

    def samples():
        seed_everything(3, workers=True)
        return [batch[i].item() for batch in torch.utils.data.DataLoader(Noise(), num_workers=2) for i in range(3)]

    first = samples()
    assert first == samples()
    assert len(set(first)) == 24
    assert os.environ["PL_SEED_WORKERS"] == "1"


def test_the_seed_is_handed_on_by_the_environment(monkeypatch):
    """It is put there, read from there, and without any it is 0."""
    assert seed_everything() == 0
    assert seed_everything(5) == 5
    assert (os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"]) == ("5", "0")
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    assert seed_everything() == 11


@pytest.mark.parametrize("verbose", [True, False])
def test_it_says_which_unless_told_not_to(caplog, verbose):
    """One line, or none."""
    caplog.set_level(logging.INFO, "holdfast")
    seed_everything(4, verbose=verbose)

    assert [r.getMessage() for r in caplog.records] == ["seed set to 4"] * verbose


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "many"])
def test_a_seed_that_is_none_is_refused_and_nothing_is_seeded(seed):
    """The generators go on as if nobody had asked."""
    seed_everything(1)
    expected = draw()
    seed_everything(1)
    with pytest.raises(ConfigError, match="whole number"):
        seed_everything(seed)

    assert draw() == expected


def test_a_seed_in_the_environment_that_is_none_is_refused(monkeypatch):
    """The error names the variable."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "many")

    with pytest.raises(ConfigError, match="PL_GLOBAL_SEED"):
        seed_everything()


def test_the_largest_seed_is_taken():
    """Up to what NumPy takes."""
    assert seed_everything(2**32 - 1) == 2**32 - 1


def test_an_isolated_block_does_not_show_outside():
    """Also when it ends by an error, and whatever it seeds."""
    seed_everything(2)
    expected = draw()
    seed_everything(2)

    def fail():
        with isolate_rng():
            seed_everything(9)
            draw()
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()

    assert draw() == expected
