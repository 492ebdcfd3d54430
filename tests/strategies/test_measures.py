"""Several ranks measure what one process measures, and train to the same weights, up to rounding."""

from __future__ import annotations

import math

import pytest

COUNTS = [17, 8, 1, 3]


def expected(count):
    """What is true of the numbers below ``count``, in batches of 4 of two ranks that take turns."""
    return {
        "mean": (count - 1) / 2,
        "both": (count - 1) / 2,
        "sum": count * (count - 1) / 2,
        "least": 0.0,
        "largest": count - 1.0,
    }


def close(a, b, tolerance=1e-5):
    """Whether two sets of weights are the same up to rounding."""
    return a.keys() == b.keys() and all(
        math.isclose(x, y, rel_tol=tolerance, abs_tol=tolerance)
        for name in a
        for x, y in zip(a[name], b[name], strict=True)
    )


@pytest.fixture(scope="module")
def measured(ranks):
    """Validations by ddp on two ranks, of which one may have a batch more, or none at all."""
    return [rank.value for rank in ranks.run("measures:evaluate", "ddp", COUNTS, 2, size=2)]


def test_an_evaluation_counts_no_sample_twice(measured):
    """Each rank sees its share, also where that is one batch more or none."""
    for number, count in enumerate(COUNTS):
        zero, one = (rank[number]["seen"] for rank in measured)
        assert sorted(zero + one) == list(range(count))
        assert len(zero) - len(one) == count % 2


def test_what_is_logged_for_all_is_that_of_all_samples(measured):
    """Weighted by their number, whatever rank has how many; both ranks know it."""
    for number, count in enumerate(COUNTS):
        for rank in measured:
            values = rank[number]["values"]
            assert {name: values.get(name, values.get(f"{name}_epoch")) for name in expected(count)} == expected(count)


def test_a_metric_that_only_some_ranks_log_is_that_of_those(measured):
    """Nothing hangs; a value of rank 1's batches alone is known to both, also where kinds of numbers differ."""
    zero, one = (rank[0]["values"] for rank in measured)
    assert zero["with three"] == one["with three"] == 4.0  # 1, 3, 5, 7
    assert zero["mixed"] == one["mixed"] == 4.5
    assert zero["alone"] == one["alone"] == 8.0  # 0, 2 to 16, and 1, 3 to 15


def test_sharded_ranks_say_which_samples_count_twice(ranks):
    """Each forward pass takes all of them, so all have as many batches."""
    ended = ranks.run("measures:evaluate", "fsdp", [17, 8], 2, size=2)
    assert [len(rank.value[0]["seen"]) for rank in ended] == [9, 9]
    assert ended[0].log.count("1 of 17 samples count twice") == 1
    assert ended[0].value[1]["values"]["mean"] == ended[1].value[1]["values"]["mean"] == 3.5


CALLS = [
    ["flat", {"max_epochs": 2}],
    ["flat", {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.01}],
    ["flat", {"max_epochs": 2, "gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"}],
    ["pair", {"max_epochs": 2}],
]


@pytest.fixture(scope="module")
def alone(ranks):
    """What one process comes to, by each call."""
    calls = [[kind, "single_device", options] for kind, options in CALLS]
    (one,) = ranks.run("measures:weights", calls, 1, size=1)
    return one.value


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_train_to_the_weights_of_one_process(ranks, alone, size):
    """With the same global batch: plain, accumulated and clipped by norm, clipped by value, optimised by hand."""
    calls = [[kind, strategy, options] for strategy in ("ddp", "fsdp") for kind, options in CALLS]
    zero, *_ = ranks.run("measures:weights", calls, size, size=size)
    for number, (call, ended) in enumerate(zip(calls, zero.value, strict=True)):
        assert close(ended, alone[number % len(CALLS)], 1e-4), call


def test_modules_can_be_sharded_in_every_way_that_torch_offers(ranks, alone):
    """By a policy, a function, by hand; parameters given up between the passes; made on the meta device."""
    options = CALLS[0][1]
    ways = [["flat", name, options] for name in ("by policy", "by function", "given up")]
    ways += [["by hand", "fsdp", options], ["meta", "fsdp", options], ["meta", "by policy", options]]
    zero, *_ = ranks.run("measures:weights", ways, 2, size=2)
    *same, meta, other = zero.value
    assert all(close(one, alone[0], 1e-4) for one in same)
    assert meta.keys() == other.keys()
    assert all(math.isfinite(x) for values in (*meta.values(), *other.values()) for x in values)


def test_mixed_precision_is_that_of_one_process(ranks):
    """bf16-mixed by fsdp and by ddp comes near what a single process comes to by it."""
    options = {"max_epochs": 1, "precision": "bf16-mixed", "gradient_clip_val": 0.1}
    (one,) = ranks.run("measures:weights", [["flat", "single_device", options]], 1, size=1)
    zero, *_ = ranks.run("measures:weights", [["flat", name, options] for name in ("ddp", "fsdp")], 2, size=2)
    assert all(close(ended, one.value[0], 0.02) for ended in zero.value)


def test_a_checkpoint_between_the_batches_of_a_step_holds_their_gradients(ranks, tmp_path):
    """Fsdp goes on bit for bit, ddp up to the rounding of one mean."""
    for strategy in ("ddp", "fsdp"):
        zero, *_ = ranks.run("measures:within_a_step", strategy, str(tmp_path), 2, size=2)
        whole, went_on = zero.value
        assert close(whole, went_on, 1e-6)
        if strategy == "fsdp":
            assert whole == went_on


def test_gradients_stay_on_their_rank_until_the_last_batch_of_a_step(ranks):
    """Ddp sends them once a step, and not once a batch."""
    zero, one = (rank.value for rank in ranks.run("measures:accumulated", 2, size=2))
    assert [a == b for a, b in zip(zero, one, strict=True)] == [False, True] * 3


def test_batch_norm_over_all_ranks_needs_gpus(ranks):
    """It is refused before anything is trained."""
    for rank in ranks.run("measures:refused", 2, size=2):
        assert rank.value == "sync_batchnorm=True needs GPUs: torch has it for no other device."
