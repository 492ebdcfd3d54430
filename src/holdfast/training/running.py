"""Runs what was put together: a fit with its end, good or bad, a validation, a test, a prediction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.errors import ConfigError, NotFound, RankError
from holdfast.log import logger
from holdfast.policy.values import Progress
from holdfast.state.signals import Signals
from holdfast.training.asked import check_optimizers
from holdfast.training.assembly import LOADERS
from holdfast.training.datamodule import LightningDataModule
from holdfast.training.defaults import version_of
from holdfast.training.facts import Brought
from holdfast.training.metrics import numbers
from holdfast.training.module import LightningModule
from holdfast.training.reduction import Reduced
from holdfast.training.restoring import IN_PARTS, Restoring
from holdfast.training.results import table
from holdfast.training.states import TrainerFn, TrainerStatus

if TYPE_CHECKING:
    from holdfast.training import resume
    from holdfast.training.evaluate import Evaluation, Stage
    from holdfast.training.fit import FitLoop
    from holdfast.training.saving import Saving


T = TypeVar("T")

_SILENCE = 2.0
"""Seconds after an error in waiting for other ranks in which those that have waited too say so."""

VERBS: dict[Stage, TrainerFn] = {
    "validation": TrainerFn.VALIDATING, "test": TrainerFn.TESTING, "predict": TrainerFn.PREDICTING
}  # fmt: skip
"""What the trainer's users call a stage."""


class Running(Restoring):
    """The side of ``Trainer`` that runs."""

    def _run(self, fn: TrainerFn, ckpt_path: Any, verb: Callable[[], T]) -> T:
        """One of the trainer's verbs, on every rank."""
        self._fn, self._status, self.ckpt_path = fn, TrainerStatus.RUNNING, ckpt_path
        try:
            with self._watching():
                result = self.strategy.launch(verb, carry=self._carried, take=self._take)
        except BaseException as error:
            self._status = TrainerStatus.INTERRUPTED
            self._say_who_failed(error)
            raise
        finally:
            if self._profiler is not None:
                self._profiler.describe()
                self._profiler.teardown(str(fn))
        self._status = TrainerStatus.FINISHED
        return result

    def _say_who_failed(self, error: BaseException) -> None:
        """No rank waits for one that has failed; and what came of that failure is not taken for its cause."""
        if self.loop is not None and self.loop.agreement.signal is not None:
            return  # all ranks have stopped together
        group = self.strategy.group
        group.fail(f"{type(error).__name__}: {error}", self.metric_log.reduced.told())
        first, waited = group.failure(), self.strategy.waited(error)
        elsewhere = first is not None and first[0] != group.rank
        if first is not None and elsewhere:
            logger.error("rank %s failed first: %s", *first)
        if not (elsewhere or waited):
            return
        try:
            notes = group.failed(_SILENCE)  # the store may be in rank 0's process, which ends when all have heard
        except RankError as gone:
            logger.error("%s", gone)
            return
        if not waited:
            return
        if silent := [rank for rank in range(group.size) if rank not in notes]:
            who = ", ".join(map(str, silent))
            logger.error("rank %s does not say that anything has failed there: it is dead, stuck or slow", who)
        elif (different := Reduced.difference([notes[rank] for rank in range(group.size)])) is not None:
            logger.error("rank %s %s", *different)

    def _carried(self) -> Brought:
        """On rank 0, where it is a child of the process that called: what is to come home."""
        from holdfast.loggers.base import Logger

        before = {} if self._brought is None else self._brought.runs  # of a fit whose ranks have ended
        return Brought(
            weights=self.lightning_module.state_dict(),
            epoch=self.current_epoch,
            step=self.global_step,
            loop=self._before(),
            callbacks={c.state_key: c.state_dict() for c in self.callbacks if not isinstance(c, ModelCheckpoint)},
            metrics=(self.callback_metrics, self.logged_metrics, self.progress_bar_metrics),
            runs=before if self.saving is None else self.saving.runs(),
            folders=[callback.dirpath for callback in self.checkpoint_callbacks],
            versions=[version_of(one) if isinstance(one, Logger) else None for one in self.loggers],
        )

    def _take(self, brought: Brought) -> None:
        """Here, in the process that called: go on as if all had run in it."""
        from holdfast.loggers.base import Logger
        from holdfast.training.places import looked_at

        self.lightning_module.load_state_dict(brought.weights)
        self._brought = brought
        for callback in self.callbacks:
            if state := brought.callbacks.get(callback.state_key):
                callback.load_state_dict(state)
        looked_at(zip(self.checkpoint_callbacks, brought.folders, strict=False), brought.runs)
        for one, version in zip(self.loggers, brought.versions, strict=True):
            if isinstance(one, Logger) and version is not None:
                one.go_on_in(version)
        held = (self.metric_log.callback, self.metric_log.logged, self.metric_log.progress_bar)
        for mine, theirs in zip(held, brought.metrics, strict=True):
            mine.update(theirs)

    def _fit(
        self,
        model: LightningModule,
        train_dataloaders: Any,
        val_dataloaders: Any,
        datamodule: Any,
        ckpt_path: Any,
        weights_only: bool | None,
    ) -> None:
        from holdfast.state import optimizers as optimizing
        from holdfast.training import resume_report
        from holdfast.training.agreement import Agreement

        before = self._before()
        self._attach(model, datamodule)
        own = self._own_of_job(ckpt_path) if before is None else None
        ckpt_path = ckpt_path if own is None else "auto"
        self._home = self._found_home(ckpt_path, own)
        self._setup(TrainerFn.FITTING)
        self._train_batches = batches = self._training_batches(train_dataloaders)
        self._validation = evaluation = self._evaluation("validation", val_dataloaders)
        self.optimizers, self.lr_scheduler_configs = optimizing.configured(model.configure_optimizers())
        scaled = self.strategy.precision.scaler is not None
        check_optimizers(self.optimizers, automatic=model.automatic_optimization, scaled=scaled)
        self.strategy.stepping = False  # whatever became of the fit before
        self.fingerprint = resume_report.taken(
            self.optimizers, self.lr_scheduler_configs, batches.loader, self.strategy,
            self.config.accumulate_grad_batches,
        )  # fmt: skip
        self._share(evaluation)
        with Signals(self.slurm.signals()) as signals:
            self._signals = signals
            stops, reduced = (lambda: self.should_stop), self.metric_log.reduced
            agreement = Agreement(self.strategy.group, signals, stops, reduced)
            self.loop = loop = self._loop(batches, evaluation, agreement)
            if before is not None:
                loop.go_on_from(*before)  # a second fit counts on from the first
            loop.reload = self._reloading(train_dataloaders, val_dataloaders)
            near = self._near(ckpt_path)  # before callbacks that nobody placed are given the folder of this fit
            self.saving = saving = self._saving(loop, signals, validates=evaluation is not None, capture=self._capture)
            resumed = self._resume(ckpt_path, weights_only, loop, near, own)
            saving.prepare()
            saving.begin(
                resumed.record if resumed else None,
                resumed.root if resumed else None,
                resumed.tallies if resumed else {},
            )
            if resumed is not None and saving.continues(resumed.record):
                self._rewind_loggers(loop.stepped)
            try:
                self._guarded(loop, saving, evaluation, resumed)
            except (SystemExit, KeyboardInterrupt):
                # Slurm ends the job the moment it is asked: nothing is left to be done.
                if (job := self.slurm.to_requeue(agreement.signal)) is not None and self.is_global_zero:
                    job.requeue()
                raise
        self._tear_down(TrainerFn.FITTING)

    def _before(self) -> tuple[Progress, dict[str, Any]] | None:
        """Where the fit before this one has ended."""
        if self.loop is not None:
            return self.loop.progress, self.loop.state_dict()
        return None if self._brought is None else self._brought.loop

    def _guarded(
        self, loop: FitLoop, saving: Saving, evaluation: Evaluation | None, resumed: resume.Resumed | None
    ) -> None:
        """Run the loop; whatever ends it, what is under way is finished and the state is left if it is one."""
        try:
            self._log_hyperparameters()
            self.hooks.call("on_fit_start")
            if evaluation is not None and resumed is None:
                self._sanity_check(evaluation, saving)
            if resumed is not None:
                loop.restore_random = resumed.restore_random
            if self.is_global_zero and (limit := loop.limits.reached(loop.progress)):
                logger.info(
                    "%s is reached: nothing to train. Epochs done: %s, steps: %s; to go on, set a higher %s.",
                    limit, loop.progress.epochs, f"{loop.steps:,}", limit.partition("=")[0],
                )  # fmt: skip
            loop.run()
            saving.final_save()
            self.hooks.call("on_fit_end")
        except BaseException as error:
            saving.rescue(error, lost=self._lost(), at_boundary=loop.at_boundary)
            ends: tuple[Callable[[], Any], ...] = (
                partial(self.hooks.call_callbacks, "on_exception", error),
                *([] if self._datamodule is None else [partial(self._datamodule.on_exception, error)]),
                partial(saving.close, clean=False),
                partial(self._finalize, "failed"),
            )
            for end in ends:
                try:
                    end()
                except Exception as late:  # a hook may raise anything; what ended the run is raised, this one is said
                    logger.error("%s: %s", type(late).__name__, late)
            raise
        saving.close(clean=True)
        self._finalize("success")

    def _lost(self) -> str:
        """After an error: why the state is none any more; empty if it is one."""
        if self.strategy.stepping:
            return "the error came in the middle of an optimizer's step"
        if self.strategy.spread and self.world_size > 1:
            return IN_PARTS
        return ""

    def _sanity_check(self, evaluation: Evaluation, saving: Saving) -> None:
        steps = self.config.sanity_steps
        if steps == 0:
            return
        from holdfast.state import random

        loop, self.sanity_checking = self._running(), True
        before = loop.random = random.capture()  # what goes on from here without this check is the same run
        try:
            self.hooks.call_callbacks("on_sanity_check_start")
            evaluation.run(self.global_step, sanity=steps if steps is not None else 2**62)
            saving.required.sanity_checked(self._watched())
            self.hooks.call_callbacks("on_sanity_check_end")
        finally:
            self.sanity_checking = False
        random.restore(before)
        loop.random = None

    def _measured(
        self,
        stage: Stage,
        model: Any,
        dataloaders: Any,
        datamodule: Any,
        ckpt_path: Any,
        verbose: bool,
        weights_only: bool | None,
    ) -> list[dict[str, float]]:
        """A validation or a test: what it logged over its epoch, loader by loader."""
        evaluation = self._prepared(stage, model, dataloaders, datamodule, ckpt_path, weights_only)
        logged = evaluation.run(self.global_step)
        results = [{name: float(value) for name, value in numbers(one).items()} for one in evaluation.results]
        if self.loop is None:  # a fit has told them
            self._log_hyperparameters()
        self._log(logged)
        self._finalize("success")
        if verbose and self.is_global_zero and any(results):
            print(table(f"{VERBS[stage].capitalize()} metric", results))
        self._tear_down(VERBS[stage])
        return results

    def _predicted(
        self,
        model: Any,
        dataloaders: Any,
        datamodule: Any,
        ckpt_path: Any,
        keep: bool,
        weights_only: bool | None,
    ) -> list[Any] | None:
        """A prediction: what its steps returned."""
        prediction = self._prepared("predict", model, dataloaders, datamodule, ckpt_path, weights_only)
        prediction.keeps_outputs = keep
        prediction.run(self.global_step)
        self._tear_down(TrainerFn.PREDICTING)
        if not keep:
            return None
        return prediction.outputs if len(prediction.outputs) > 1 else prediction.outputs[0]

    def _prepared(
        self, stage: Stage, model: Any, dataloaders: Any, datamodule: Any, ckpt_path: Any, weights_only: bool | None
    ) -> Evaluation:
        """Everything but the run itself: the module with the weights that were asked for, and its loaders."""
        if isinstance(dataloaders, LightningDataModule):
            dataloaders, datamodule = None, dataloaders
        if dataloaders is not None and datamodule is not None:
            raise ConfigError("Give loaders or a datamodule, not both.")
        if model is None:
            if self._module is None:
                raise ConfigError("There is no module yet.", remedy="Give one, or call fit() first.")
            model = self._module
            datamodule = self._datamodule if datamodule is None and dataloaders is None else datamodule
            ckpt_path = self._best_of_fit() if ckpt_path is None else ckpt_path
        self._check_model(model)
        self._attach(model, datamodule)
        self._setup(VERBS[stage])
        evaluation = self._evaluation(stage, dataloaders)
        if evaluation is None:
            raise ConfigError(
                f"{type(model).__name__} has nothing to {VERBS[stage]}: it needs "
                f"{stage}_step and {LOADERS[stage]}_dataloader."
            )
        if stage == "validation":
            self._validation = evaluation
        elif stage == "test":
            self._test = evaluation
        else:
            self._prediction = evaluation
        if ckpt_path is not None:
            from holdfast.catalog import resolve
            from holdfast.training import resume

            near = self._near("last" if ckpt_path == "auto" else ckpt_path)
            opened = self._opened(ckpt_path, near, weights_only, resolve.with_model)
            if opened is None:
                raise NotFound("does not exist: nothing of what was saved verifies.", checkpoint=str(ckpt_path))
            if self.is_global_zero:
                logger.info("taking the weights of '%s'", opened.path)
            self.hooks.call_all(self.hooks.of_module("on_load_checkpoint"), "on_load_checkpoint", opened.state)
            resume.load_model(opened, model, self.strategy)
        return evaluation
