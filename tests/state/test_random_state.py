"""What capture and restore of random generators promise: the same draws again, or a word why not."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from holdfast.errors import ConfigError
from holdfast.state.random import capture, restore


@pytest.fixture(autouse=True)
def _generators_as_they_were():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def draw():
    """Draws from every generator: an odd number of gaussians, so that each one holds one back for later."""
    return {
        "python": [random.random(), random.getrandbits(70), random.gauss(0, 1)],
        "numpy": [float(np.random.standard_normal()), int(np.random.randint(2**31)), float(np.random.rand())],
        "torch": [*torch.randn(3).tolist(), torch.randn(20).tolist(), torch.randperm(50).tolist()],
    }


def leaves(value):
    """Every value within dicts, lists and tuples."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize("drawn_before", [0, 1, 2, 1000])
def test_restored_generators_draw_the_same_again(drawn_before):
    """Exactly the same draws come out of all generators, with and without a gaussian held back."""
    for _ in range(drawn_before):
        draw()
    state = capture()
    first = [draw(), draw()]
    draw()
    assert restore(state) == []
    assert [draw(), draw()] == first


@pytest.mark.parametrize(
    "gaussian",
    [lambda: random.gauss(0, 1), lambda: float(np.random.standard_normal()), lambda: torch.randn(1).item()],
    ids=["python", "numpy", "torch"],
)
def test_the_gaussian_that_a_generator_holds_back_is_part_of_its_state(gaussian):
    """The second of a pair, drawn after the capture, comes out again after a restore."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    gaussian()
    state = capture()
    second = [gaussian() for _ in range(3)]
    assert restore(state) == []
    assert [gaussian() for _ in range(3)] == second


def test_the_state_survives_a_file_read_with_weights_only(tmp_path):
    """What torch's safe loader gives back restores the same draws."""
    draw()
    path = tmp_path / "random.pt"
    torch.save(capture(), path)
    first = draw()
    assert restore(torch.load(path, weights_only=True)) == []
    assert draw() == first


def test_the_state_holds_only_plain_values_and_tensors_of_two_dtypes():
    """Exact types, so that no numpy scalar and no subclass slips in."""
    random.gauss(0, 1)
    found = {value.dtype if type(value) is torch.Tensor else type(value) for value in leaves(capture())}
    assert found <= {torch.int64, torch.uint8, int, float, str, type(None)}


def test_a_captured_state_is_not_touched_by_later_draws():
    """The capture is a copy: drawing afterwards changes nothing in it."""
    state = capture()
    before = [value.clone() if isinstance(value, torch.Tensor) else value for value in leaves(state)]
    draw()
    for ours, theirs in zip(before, leaves(state), strict=True):
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


@pytest.mark.skipif(torch.accelerator.is_available(), reason="says what happens on a machine without devices")
def test_devices_that_this_machine_does_not_have_are_named_and_the_rest_is_restored():
    """The states of two CUDA devices end in one sentence; everything else draws the same again."""
    state = capture()
    first = draw()
    state["accelerators"] = {"cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}
    (sentence,) = restore(state)
    assert "2 of 2 cuda device(s)" in sentence
    assert draw() == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_generators_draw_the_same_again():
    """The generators of all CUDA devices that are here are restored exactly."""
    torch.cuda.init()
    state = capture()
    first = [torch.randn(7, device=f"cuda:{index}").tolist() for index in range(torch.cuda.device_count())]
    assert restore(state) == []
    again = [torch.randn(7, device=f"cuda:{index}").tolist() for index in range(torch.cuda.device_count())]
    assert again == first


@pytest.mark.parametrize("part", ["python", "numpy", "torch", "accelerators"])
def test_a_part_that_was_not_saved_is_named(part):
    """A missing part is said, and the other generators are restored."""
    state = capture()
    first = draw()
    del state[part]
    (sentence,) = restore(state)
    assert f"'{part}' was not saved" in sentence
    again = draw()
    assert {name: draws for name, draws in again.items() if name != part} == {
        name: draws for name, draws in first.items() if name != part
    }


def test_a_name_from_a_later_version_is_said_not_raised():
    """An unknown part is one sentence with its name."""
    (sentence,) = restore({**capture(), "quantum": [1]})
    assert "'quantum'" in sentence


def test_versions_and_generators_of_elsewhere_are_said_not_raised():
    """Another version of Python's state, and another bit generator of NumPy's: one sentence for each."""
    state = capture()
    state["python"] = {**state["python"], "version": 4}
    state["numpy"] = {"bit_generator": "PCG64"}
    python, numpy = restore(state)
    assert "version 4" in python
    assert "PCG64" in numpy


def test_another_bit_generator_under_numpys_global_functions_is_captured_by_name():
    """A save never fails for it, and a restore says that its state was not saved, or does not fit."""
    twister, before = capture(), np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        state = capture()
        assert state["numpy"] == {"bit_generator": "PCG64"}
        assert ["PCG64" in sentence for sentence in restore(state)] == [True]
        assert ["is a PCG64 now" in sentence for sentence in restore(twister)] == [True]
    finally:
        np.random.set_bit_generator(before)


BYTES = torch.zeros(16, dtype=torch.uint8)
MALFORMED = {
    "python is no mapping": ("python", lambda part: [1, 2]),
    "python without words": ("python", lambda part: {"version": 3, "gauss_next": None}),
    "python with too few words": ("python", lambda part: {**part, "words": part["words"][:-1]}),
    "python with words of another dtype": ("python", lambda part: {**part, "words": part["words"].double()}),
    "python with a negative word": ("python", lambda part: {**part, "words": part["words"] - 2**32}),
    "python past its words": ("python", lambda part: {**part, "words": torch.full((625,), 625)}),
    "python with a word for a gaussian": ("python", lambda part: {**part, "gauss_next": "1.0"}),
    "numpy without a name": ("numpy", lambda part: {}),
    "numpy without a key": ("numpy", lambda part: {"bit_generator": "MT19937"}),
    "numpy with too many words": ("numpy", lambda part: {**part, "key": part["key"].repeat(2)}),
    "numpy past its key": ("numpy", lambda part: {**part, "pos": 625}),
    "numpy with half a gaussian": ("numpy", lambda part: {**part, "has_gauss": 2}),
    "torch is a list": ("torch", lambda part: [0]),
    "torch too short": ("torch", lambda part: part[:-1]),
    "torch of another dtype": ("torch", lambda part: part.long()),
    "accelerators are a list": ("accelerators", lambda part: [BYTES]),
    "accelerators without a list": ("accelerators", lambda part: {"cuda": BYTES}),
    "accelerators of another dtype": ("accelerators", lambda part: {"cuda": [BYTES.float()]}),
}


@pytest.mark.parametrize(("part", "spoil"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_state_is_an_error_and_changes_no_generator(part, spoil):
    """ConfigError names the part, and all generators draw as if restore had not been called."""
    state = capture()
    state[part] = spoil(state[part])
    present = capture()
    expected = draw()
    restore(present)
    with pytest.raises(ConfigError, match=f"'{part}.*is malformed.*No generator was changed"):
        restore(state)
    assert draw() == expected
