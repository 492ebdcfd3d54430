"""Generators that samplers and loaders hold, as plain values and back."""

from __future__ import annotations

import io
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from holdfast.state import generators

KINDS = {
    "torch": (lambda: torch.Generator().manual_seed(3), lambda g: torch.rand((), generator=g).item()),
    "random": (lambda: random.Random(3), lambda g: (g.random(), g.gauss(0, 1))),
    "PCG64": (lambda: np.random.default_rng(3), lambda g: (g.random(), g.integers(9, dtype=np.int32))),
    "MT19937": (lambda: np.random.Generator(np.random.MT19937(3)), lambda g: g.random()),
    "Philox": (lambda: np.random.Generator(np.random.Philox(3)), lambda g: g.random()),
    "SFC64": (lambda: np.random.Generator(np.random.SFC64(3)), lambda g: g.random()),
    "RandomState": (lambda: np.random.RandomState(3), lambda g: (g.rand(), g.randn())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_goes_on_where_it_was(kind):
    """Through a file that the safe loader reads, into one that was seeded otherwise."""
    make, draw = KINDS[kind]
    held = generators.held({"sampler": SimpleNamespace(own=make(), other=3)})
    assert list(held) == ["sampler.own"]
    draw(held["sampler.own"])
    file = io.BytesIO()
    torch.save(generators.capture(held), file)
    wanted = [draw(held["sampler.own"]) for _ in range(3)]
    file.seek(0)
    other = generators.held({"sampler": SimpleNamespace(own=make())})
    assert generators.restore(other, torch.load(file, weights_only=True)) == []
    assert [draw(other["sampler.own"]) for _ in range(3)] == wanted


def test_a_generator_that_two_hold_is_captured_once():
    """As a loader's, which is its sampler's too; one without a state of its own is left out."""
    shared = torch.Generator()
    owners = {"loader": SimpleNamespace(generator=shared), "sampler": SimpleNamespace(generator=shared), "none": None}
    assert list(generators.held(owners)) == ["loader.generator"]
    assert generators.held({"sampler": SimpleNamespace(own=random.SystemRandom())}) == {}


def test_what_cannot_be_restored_is_said():
    """One that was not saved, and one of another kind: both stay as they are."""
    held = generators.held({"sampler": SimpleNamespace(a=random.Random(1), b=random.Random(1))})
    saved = generators.capture(generators.held({"sampler": SimpleNamespace(b=np.random.default_rng(1))}))
    assert generators.restore(held, saved) == [
        "the generator sampler.a was not saved",
        "the generator sampler.b is a random.Random and was a numpy PCG64",
    ]
    assert held["sampler.b"].random() == random.Random(1).random()
