"""Run the batches of a validation, a test or a prediction. Changes nothing of the training that goes on around it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from holdfast.strategies.base import TrainingStrategy
from holdfast.training.data import Batches, Transfer, calling
from holdfast.training.hooks import Context, Hooks
from holdfast.training.metrics import MetricLog

Stage = Literal["validation", "test", "predict"]


class Evaluation:
    """One kind of evaluation of a run.

    Args:
        stage: Which.
        module: The module.
        strategy: How it computes.
        hooks: Who is told.
        context: Which hook runs.
        metrics: Where it logs.
        loaders: What it reads.
        transfer: Brings a batch to the device.
        inference_mode: Whether autograd is switched off for good (else only its recording).
        check: Called after each batch with the numbers of its loader and its own; raises to stop.

    Attributes:
        results: What it logged, loader by loader.
        outputs: What the steps of a prediction returned, loader by loader; empty where nobody asked to keep it.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        module: Any,
        strategy: TrainingStrategy,
        hooks: Hooks,
        context: Context,
        metrics: MetricLog,
        loaders: Sequence[Batches],
        transfer: Transfer,
        inference_mode: bool,
        check: Any,
    ) -> None:
        self.stage = stage
        self.loaders = loaders
        self._transfer = transfer
        self._module, self._strategy, self._hooks, self._context = module, strategy, hooks, context
        self._metrics, self._inference_mode, self._check = metrics, inference_mode, check
        self._step = calling(module, f"{stage}_step", 3 if len(loaders) > 1 else 2)
        self._trains = bool(hooks.of_module(f"on_{stage}_model_train"))
        self.results: list[dict[str, Any]] = []
        self.outputs: list[list[Any]] = []
        self.keeps_outputs = False
        self.active = False

    @property
    def batches(self) -> int:
        """How many batches it has; 0 where a loader does not say."""
        return sum(loader.size or 0 for loader in self.loaders)

    def run(self, steps: int, *, sanity: int | None = None) -> dict[str, Any]:
        """Run it whole, or ``sanity`` batches of each loader.

        Args:
            steps: Optimizer steps done: what it measures belongs to that step.
            sanity: How many batches, when this is the check before training.

        Returns:
            What it logged over its epoch.
        """
        stage, hooks = self.stage, self._hooks
        log_stage: Any = "sanity" if sanity is not None else "validate" if stage == "validation" else stage
        training = {m: m.training for m in self._module.modules()}
        self.active, self.outputs = True, []
        self._metrics.begin_stage(log_stage, dataloaders=len(self.loaders))
        getattr(self._module, f"on_{stage}_model_eval")()
        with _without_gradients(self._inference_mode):
            hooks.call(f"on_{stage}_start")
            hooks.call(f"on_{stage}_epoch_start")
            for index, loader in enumerate(self.loaders):
                self._run_loader(index, loader, steps, sanity)
            self._metrics.end_batches(steps)
            hooks.call(f"on_{stage}_epoch_end")
            origins = self._metrics.origins(steps)
            logged = self._metrics.end_stage(steps)
            self.results = [
                {name: value for name, value in logged.items() if origins[name] in (None, index)}
                for index in range(len(self.loaders))
            ]
            hooks.call(f"on_{stage}_end")
        if self._trains:
            getattr(self._module, f"on_{stage}_model_train")()
        else:
            for module, mode in training.items():  # what a user had frozen in evaluation mode stays so
                module.training = mode
        self.active = False
        return logged

    def _run_loader(self, index: int, loader: Batches, steps: int, sanity: int | None) -> None:
        several = len(self.loaders) > 1
        kept: list[Any] = []
        self.outputs.append(kept)
        begin = self._hooks.of(f"on_{self.stage}_batch_start")
        end = self._hooks.of(f"on_{self.stage}_batch_end")
        for batch_idx, raw in enumerate(loader.iterate()):
            if sanity is not None and batch_idx >= sanity:
                break
            batch = self._transfer(raw, index)
            self._metrics.begin_batch(batch, index)
            where = (batch, batch_idx, index) if several else (batch, batch_idx)
            if begin:
                self._hooks.call_all(begin, f"on_{self.stage}_batch_start", *where)
            self._context.hook = f"{self.stage}_step"
            outputs = self._strategy.forward(self._step, *where)
            if self.keeps_outputs:
                kept.append(outputs)
            self._context.hook = ""
            if end:
                self._hooks.call_all(end, f"on_{self.stage}_batch_end", outputs, *where)
            self._metrics.end_batch(steps)
            self._check(index, batch_idx)


def _without_gradients(inference_mode: bool) -> AbstractContextManager[Any]:
    return torch.inference_mode() if inference_mode else torch.no_grad()
