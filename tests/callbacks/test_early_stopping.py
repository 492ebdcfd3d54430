"""What EarlyStopping promises: when training stops, why, and that a resumed run counts on."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest
import torch

from holdfast.callbacks import EarlyStopping, EarlyStoppingReason
from holdfast.errors import ConfigError

NAN = math.nan


def stops_at(stopping, trainer, scores):
    """The index of the score, one a training epoch, at which it asked for the end; None if it did not."""
    stopping.setup(trainer, None, "fit")
    stopping.on_train_start(trainer, None)
    for epoch, score in enumerate(scores):
        trainer.current_epoch = epoch
        trainer.callback_metrics["loss"] = torch.tensor(score)
        stopping.on_train_epoch_end(trainer, None)
        if trainer.should_stop:
            return epoch
    return None


@pytest.mark.parametrize(
    ("options", "scores", "expected"),
    [
        ({"patience": 2}, [3.0, 2.0, 2.0, 2.0, 1.0], 3),
        ({"patience": 2}, [3.0, 3.5, 2.0, 2.5, 1.0], None),
        ({"patience": 1}, [1.0, 1.0], 1),
        ({"patience": 0}, [3.0, 2.0, 2.5], 2),
        ({"patience": 1, "mode": "max"}, [0.5, 0.6, 0.55], 2),
        ({"patience": 1, "min_delta": 0.5}, [3.0, 2.0, 1.75], 2),
        ({"patience": 1, "min_delta": 0.5}, [3.0, 2.0, 1.5], 2),
        ({"patience": 1, "min_delta": 0.5, "mode": "max"}, [1.0, 2.0, 2.25], 2),
        ({"patience": 9}, [3.0, NAN], 1),
        ({"patience": 9}, [math.inf], 0),
        ({"patience": 2, "check_finite": False}, [3.0, NAN, NAN], 2),
        ({"stopping_threshold": 0.5}, [3.0, 0.75, 0.5], 2),
        ({"stopping_threshold": 1.0, "mode": "max"}, [0.5, 0.75, 1.0], 2),
        ({"divergence_threshold": 10.0}, [3.0, 10.0, 10.5], 2),
        ({"divergence_threshold": 0.25, "mode": "max"}, [0.5, 0.25, 0.125], 2),
    ],
)
def test_it_stops_when_its_arguments_say(trainer, options, scores, expected):
    """Each rule, in both directions: the check at which training is asked to stop."""
    assert stops_at(EarlyStopping("loss", **options), trainer, scores) == expected


def test_attributes_tell_what_happened(trainer):
    """``best_score``, ``wait_count`` and ``stopped_epoch`` are those of the end."""
    stopping = EarlyStopping("loss", patience=2)

    assert stops_at(stopping, trainer, [3.0, 1.0, 2.0, 2.0]) == 3

    assert (stopping.best_score.item(), stopping.wait_count, stopping.stopped_epoch) == (1.0, 2, 3)


def test_equal_scores_are_no_improvement_whatever_their_precision(trainer):
    """A score that float32 cannot hold equals itself at the next check."""
    stopping = EarlyStopping("loss", patience=1)
    stopping.setup(trainer, None, "fit")
    stopping.on_train_start(trainer, None)
    trainer.callback_metrics["loss"] = 0.1
    stopping.on_train_epoch_end(trainer, None)
    stopping.on_train_epoch_end(trainer, None)

    assert trainer.should_stop


@pytest.mark.parametrize(
    ("options", "scores", "reason", "why"),
    [
        ({"patience": 1}, [1.0, 2.0], "PATIENCE_EXHAUSTED", "loss did not improve in 1 check: the best was 1, it is 2"),
        (
            {"patience": 2, "min_delta": 0.5},
            [1.0, 1.0, 1.0],
            "PATIENCE_EXHAUSTED",
            "loss did not improve by more than 0.5 in 2 checks",
        ),
        ({}, [2.0, NAN], "NON_FINITE_METRIC", "loss is nan (the best was 2)"),
        (
            {"stopping_threshold": 0.5},
            [2.0, 0.25],
            "STOPPING_THRESHOLD",
            "loss is 0.25, which reaches the stopping_threshold of 0.5",
        ),
        (
            {"divergence_threshold": 5},
            [2.0, 6.0],
            "DIVERGENCE_THRESHOLD",
            "loss is 6, worse than the divergence_threshold of 5",
        ),
    ],
)
def test_one_line_says_why(trainer, caplog, options, scores, reason, why):
    """The end of training writes one line, with the reason and the epoch; programs read the reason off the callback."""
    caplog.set_level(logging.INFO, "holdfast")
    stopping = EarlyStopping("loss", **options)
    assert stopping.stopping_reason is EarlyStoppingReason.NOT_STOPPED

    stopped = stops_at(stopping, trainer, scores)
    assert stopping.stopping_reason is EarlyStoppingReason[reason]
    assert stopping.stopping_reason_message.startswith(why)

    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"early stopping: {why}")
    assert line.endswith(f"training stops in epoch {stopped}")


def test_other_ranks_are_silent_when_asked_to_be(making, caplog):
    """``log_rank_zero_only`` writes nothing on rank 1, and stops there all the same."""
    caplog.set_level(logging.INFO, "holdfast")
    trainer = making(global_rank=1, world_size=2, is_global_zero=False)

    assert stops_at(EarlyStopping("loss", patience=1, log_rank_zero_only=True), trainer, [1.0, 2.0]) == 1

    assert caplog.records == []


def test_it_looks_where_epochs_are_counted(making):
    """By default the training epoch's end, or validation's where that has its own rhythm."""
    validating = SimpleNamespace(evaluation=object(), limits=None, batch=0)
    for loop, wanted, hook in [
        (SimpleNamespace(evaluation=None, limits=None, batch=0), None, "on_train_epoch_end"),
        (validating, None, "on_validation_end"),
        (validating, True, "on_train_epoch_end"),
        (validating, False, "on_validation_end"),
    ]:
        trainer = making(loop=loop, callback_metrics={"loss": 1.0})
        stopping = EarlyStopping("loss", check_on_train_epoch_end=wanted)
        stopping.setup(trainer, None, "fit")
        stopping.on_train_start(trainer, None)
        for each in ("on_train_epoch_end", "on_validation_end"):
            stopping.best_score = torch.tensor(math.inf)
            getattr(stopping, each)(trainer, None)
            assert (stopping.best_score.item() == 1.0) == (each == hook)


@pytest.mark.parametrize("fast_dev_run", [False, True])
def test_nothing_counts_but_training(making, fast_dev_run):
    """The sanity check, a validation outside of fit, and a fast development run are not looked at."""
    trainer = making(callback_metrics={})
    trainer.config.fast_dev_run = fast_dev_run
    stopping = EarlyStopping("loss", check_on_train_epoch_end=False)
    stopping.setup(trainer, None, "fit")
    stopping.on_validation_end(trainer, None)
    if fast_dev_run:
        stopping.on_train_start(trainer, None)
        stopping.on_validation_end(trainer, None)

    assert (stopping.wait_count, math.isinf(stopping.best_score.item())) == (0, True)


def test_a_metric_that_is_missing_is_an_error_that_lists_what_is_there(trainer):
    """``strict`` names the metric and every one that was logged."""
    trainer.callback_metrics.update(train_loss=1.0, accuracy=0.5)

    with pytest.raises(ConfigError, match=r"'val_loss'.*train_loss, accuracy"):
        stops_at(EarlyStopping("val_loss"), trainer, [1.0])


def test_without_strict_a_missing_metric_is_said_once(trainer, caplog):
    """``strict=False`` goes on, and one line tells it."""
    caplog.set_level(logging.INFO, "holdfast")

    assert stops_at(EarlyStopping("val_loss", strict=False, patience=1), trainer, [1.0, 2.0, 3.0]) is None

    assert len(caplog.records) == 1


def test_a_resumed_run_counts_on(trainer, making):
    """A state taken in the middle, loaded into a new one, stops at the same check as the uninterrupted one."""
    scores = [3.0, 1.0, 2.0, 2.0, 2.0]
    whole, first, second = (EarlyStopping("loss", patience=3) for _ in range(3))
    stops_at(first, trainer, scores[:3])
    second.load_state_dict(first.state_dict())

    assert stops_at(whole, making(), scores) == 4
    assert stops_at(second, making(), scores[3:]) == 1
    assert second.state_dict().keys() == {"wait_count", "stopped_epoch", "best_score", "patience"}
    assert (second.wait_count, second.best_score) == (whole.wait_count, whole.best_score)


def test_the_patience_of_the_code_wins_over_that_of_the_checkpoint(caplog):
    """Somebody who resumes with more patience gets it, and a line says so."""
    caplog.set_level(logging.INFO, "holdfast")
    stopping = EarlyStopping("loss", patience=9)

    stopping.load_state_dict(EarlyStopping("loss", patience=3).state_dict())

    assert stopping.patience == 9
    assert [r.getMessage() for r in caplog.records] == [
        "early stopping: patience is 9 now, and was 3 in the checkpoint"
    ]


def test_two_of_them_have_two_states():
    """Their keys differ by the metric and by the direction."""
    keys = {EarlyStopping(m, mode=mode).state_key for m in ("loss", "accuracy") for mode in ("min", "max")}

    assert len(keys) == 4


def test_arguments_that_make_no_sense_are_refused_all_at_once():
    """One error names every wrong argument."""
    with pytest.raises(ConfigError) as caught:
        EarlyStopping("", mode="best", patience=-1, min_delta=-0.5, stopping_threshold=NAN)

    for name in ("monitor", "mode", "patience", "min_delta", "stopping_threshold"):
        assert f"{name} is" in str(caught.value)
