"""One file of what fsdp has divided: no rank but 0 ever holds more of the others' parts than one tensor."""

from __future__ import annotations

BUFFERS = 64 * 2**20  # bytes that a save takes for itself


def test_rank_0_holds_the_state_once_and_the_others_one_tensor_of_it(ranks, tmp_path):
    """Memory beyond that of the training, looked at all the while: nothing is gathered twice, or kept elsewhere."""
    zero, one = (rank.value for rank in ranks.run("gathering:saved", str(tmp_path), 2, size=2, patience=120))
    assert zero["file"] > zero["state"]
    some = 8 * zero["tensor"]
    assert zero["state"] - some < zero["taken"] < zero["state"] + BUFFERS + some
    assert one["taken"] < some


def test_what_one_rank_has_is_not_taken_for_a_copy(ranks, tmp_path):
    """Gathering of one rank gives its own tensors: they are lent as ever, and a change of one is noticed."""
    (zero,) = (rank.value for rank in ranks.run("gathering:alone", str(tmp_path), size=1))
    assert zero == ["model.rest.3.weight"]
