"""A profiler given to a trainer sees what the run calls; without one nothing is wrapped."""

import pytest

from fitting import Net, loader, net, trainer
from holdfast import ConfigError
from holdfast.callbacks import Timer
from holdfast.profilers import PassThroughProfiler, Profiler, SimpleProfiler
from holdfast.training.hooks import Hooks


def test_a_fit_a_validation_and_their_batches_are_actions(tmp_path):
    """Steps, backward passes, optimizer steps, hooks and the wait for batches, each as often as it took place."""
    profiler = SimpleProfiler()
    run = trainer(tmp_path, max_epochs=2, profiler=profiler, callbacks=Timer())
    run.fit(net(), loader(4), loader(2))
    counts = {action: len(durations) for action, durations in profiler.recorded_durations.items()}

    assert counts["[Strategy]SingleDevice.training_step"] == 8
    assert counts["[Strategy]SingleDevice.backward"] == 8
    assert counts["[Strategy]SingleDevice.optimizer_step"] == 8
    assert counts["[FitLoop].train_dataloader_next"] >= 8
    assert counts["[Callback]Timer.on_fit_start"] == 1
    assert run.profiler is profiler


def test_the_report_is_written_at_the_end_also_of_a_run_that_failed(tmp_path):
    """The file has the name of the verb, and what had been measured."""

    class Fails(Net):
        def training_step(self, batch, batch_idx):
            raise ZeroDivisionError

    run = trainer(tmp_path, max_epochs=1, profiler=SimpleProfiler(dirpath=tmp_path, filename="times"))
    with pytest.raises(ZeroDivisionError):
        run.fit(Fails(), loader(2))

    assert "FIT Profiler Report" in (tmp_path / "fit-times.txt").read_text()


def test_the_end_is_told(tmp_path):
    """A profiler of a user's own is set up, described and torn down with the verb's name."""
    told = []

    class Own(Profiler):
        def setup(self, stage, local_rank=None, log_dir=None):
            told.append(("setup", stage, local_rank))

        def start(self, action_name):
            pass

        stop = start

        def describe(self):
            told.append("describe")

        def teardown(self, stage):
            told.append(("teardown", stage))

    trainer(tmp_path, max_epochs=1, profiler=Own()).validate(net(), loader(1), verbose=False)
    assert told == [("setup", "validate", None), "describe", ("teardown", "validate")]


def test_a_profiler_that_is_none_is_refused(tmp_path):
    """When the trainer is made."""
    with pytest.raises(ConfigError, match="not 'fast'"):
        trainer(tmp_path, profiler="fast")


class Measures(Net):
    """Measures a part of its step."""

    def training_step(self, batch, batch_idx):
        with self.trainer.profiler.profile("my part") as name:
            seen.append(name)
            return super().training_step(batch, batch_idx)


seen: list[str] = []


@pytest.mark.parametrize("given", [None, PassThroughProfiler()])
def test_a_module_may_measure_whether_or_not_there_is_a_profiler(tmp_path, given):
    """Without one nothing is measured: neither this, nor what the run calls."""
    seen.clear()
    run = trainer(tmp_path, max_epochs=1, profiler=given)
    run.fit(Measures(), loader(3))
    assert seen == ["my part"] * 3
    assert type(run.profiler) is PassThroughProfiler
    assert type(run.hooks) is Hooks


def test_a_profiler_may_be_given_between_two_runs(tmp_path):
    """It sees the run that follows; and what is none is refused there too."""
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Measures(), loader(3))
    run.profiler = "simple"
    run.max_epochs = 2
    run.fit(run.lightning_module, loader(3))
    assert len(run.profiler.recorded_durations["my part"]) == 3
    with pytest.raises(ConfigError, match="not 'fast'"):
        run.profiler = "fast"
