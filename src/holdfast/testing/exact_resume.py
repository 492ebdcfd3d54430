"""Kill a run at given steps, resume each in a new process, and compare what became of it with the run left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import PicklingError
from typing import Any

from holdfast.errors import ConfigError
from holdfast.testing.recording import Recorder, reseed

Fit = Callable[[Any, Any, "str | None"], None]

_SEED, _OTHER_SEED = 1, 987_654_321
# Imported once by the server, and not by each child anew: what a fit imports.
_PRELOADED = [
    f"holdfast.{name}" for name in ("testing.exact_resume", "training.trainer", "training.saving", "training.resume")
]
_RECORD, _SAVED = "record.json", "killed.ckpt"

_NOT_ONE_RUN = (
    "So no resume can be exact: look for what draws from generators that nobody seeds, reads the time or the process's "
    "number, or adds up in no fixed order (torch.use_deterministic_algorithms(True) tells)."
)
_LOST = (
    "What a checkpoint is to bring back has to be in it: in parameters and buffers, in what on_save_checkpoint adds, "
    "in a callback's or a loader's state_dict(). Draw from the global generators, which are saved."
)


def assert_exact_resume(
    make_trainer: Callable[[], Any],
    make_model: Callable[[], Any],
    *,
    at: Sequence[int],
    fit: Fit | None = None,
    timeout: float = 600.0,
) -> None:
    """Assert that a run which is killed at a step and resumed is the run that never stopped, bit for bit.

    One process trains to the end. For each step in ``at`` another one saves at the end of that step and is killed by
    SIGKILL, and a third one resumes from that file, after its generators were seeded with other numbers. Compared are,
    from that step on, every batch, what was logged and the weights after it, and at the end the optimizers' and the
    schedulers' states. Up to that step the first two are compared likewise: a run that is another one each time is told
    of as that. Processes that one of them has started, workers of loaders among them, end with it.

    Args:
        make_trainer: Makes the ``Trainer``, the same each time. It runs in a temporary folder, where its logs and
            checkpoints go unless it places them itself.
        make_model: Makes the module.
        at: Optimizer steps (``global_step``) at which to kill.
        fit: Calls ``trainer.fit(model, ..., ckpt_path=ckpt_path)`` for those who hand over loaders or a datamodule;
            ``fit(trainer, model, ckpt_path)``.
        timeout: Seconds that one process may take.

    Raises:
        AssertionError: The first thing that differs, and at which step; what to do.
        ConfigError: A function cannot be sent to another process (it must be defined at the top of a module), or a run
            failed, or never came to one of the steps.
    """
    if not at or any(type(step) is not int or step < 1 for step in at):
        raise ConfigError(f"at= takes optimizer steps from 1 on, not {at!r}.")
    run = _Run(make_trainer, make_model, fit or _fit, timeout)
    with tempfile.TemporaryDirectory(prefix="holdfast-exact-") as root:
        whole = run.record(Path(root) / "whole")
        for step in at:
            folder = Path(root) / f"step-{step}"
            saved = run.killed(folder, step)
            again = json.loads(saved.with_suffix(".json").read_text())
            difference = first_difference(_up_to(len(again["batches"]), whole), _up_to(len(again["batches"]), again))
            assert difference is None, f"before any stop, begun twice under one seed, {difference}. {_NOT_ONE_RUN}"
            difference = first_difference(whole, run.record(folder, saved))
            assert difference is None, (
                f"killed at step {step} and resumed, the run is another one: {difference}. {_LOST}"
            )


def first_difference(whole: dict[str, Any], resumed: dict[str, Any]) -> str | None:
    """What differs first between the record of a whole run and that of a resumed one; None if nothing does."""
    expected = [one for one in whole["batches"] if one["number"] > resumed["began_after"]]
    for here, there in zip(expected, resumed["batches"], strict=False):
        where = f"batch {here['number']} (step {here['steps']})"
        if here["batch"] != there["batch"]:
            return f"{where} has other samples"
        for name in sorted({*here["logged"], *there["logged"]}):
            if here["logged"].get(name) != there["logged"].get(name):
                return f"after {where} the metric {name!r} has another value"
        for name in sorted({*here["weights"], *there["weights"]}):
            if here["weights"].get(name) != there["weights"].get(name):
                return f"after {where} {name!r} has another value"
    if len(expected) != len(resumed["batches"]):
        return f"it trains on {len(resumed['batches'])} more batches, and {len(expected)} were left"
    for name in sorted({*whole["state"], *resumed["state"]}):
        if whole["state"].get(name) != resumed["state"].get(name):
            return f"'{name}' is not the same at the end"
    return None


def _up_to(count: int, record: dict[str, Any]) -> dict[str, Any]:
    """The first batches of a record, without its end."""
    return {**record, "batches": record["batches"][:count], "state": {}}


def _fit(trainer: Any, model: Any, ckpt_path: str | None) -> None:
    trainer.fit(model, ckpt_path=ckpt_path)


class _Run:
    """One configuration, run in processes of its own."""

    def __init__(
        self, make_trainer: Callable[[], Any], make_model: Callable[[], Any], fit: Fit, timeout: float
    ) -> None:
        self._made = (make_trainer, make_model, fit)
        self._timeout = timeout
        # Forked from a server that has run nothing: a process that has computed with torch must not be forked.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def record(self, folder: Path, ckpt_path: Path | None = None) -> dict[str, Any]:
        """Train to the end, from a checkpoint if there is one; what was recorded."""
        code = self._in_child(folder, None, ckpt_path)
        path = folder / _RECORD
        if code != 0 or not path.exists():
            raise ConfigError(f"The run failed (exit code {code}); its own error stands above.")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def killed(self, folder: Path, step: int) -> Path:
        """Train, save at the end of a step and be killed; the file."""
        code = self._in_child(folder, step, None)
        if code != -signal.SIGKILL:
            raise ConfigError(
                f"The run never came to the end of step {step} (exit code {code}).",
                remedy="With several optimizers, or where steps are skipped, not every number is the end of a batch.",
            )
        return folder / _SAVED

    def _in_child(self, folder: Path, step: int | None, ckpt_path: Path | None) -> int | None:
        folder.mkdir(parents=True, exist_ok=True)
        # The program's own way to start a loader's workers, and not the one of this module.
        method = multiprocessing.get_start_method(allow_none=True)
        arguments = (*self._made, str(folder), step, None if ckpt_path is None else str(ckpt_path), method)
        child = self._context.Process(target=_train, args=arguments)
        try:
            child.start()
        except (AttributeError, TypeError, PicklingError) as error:
            raise ConfigError(
                f"make_trainer, make_model and fit are sent to other processes, and cannot be: {error}",
                remedy="Define them at the top of a module that can be imported, not within a test.",
            ) from error
        try:
            child.join(self._timeout)
            if child.is_alive():
                raise ConfigError(f"The run took more than {self._timeout:g} s.", remedy="Raise timeout=.")
            return child.exitcode
        finally:
            _end(child)


def _end(child: Any) -> None:
    """End a process and those that it has started: workers that have lost it go on holding what it had open."""
    assert child.pid is not None, "it was started"
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()


def _train(
    make_trainer: Callable[[], Any],
    make_model: Callable[[], Any],
    fit: Fit,
    folder: str,
    step: int | None,
    ckpt_path: str | None,
    start_method: str | None,
) -> None:
    """One child."""
    os.setpgid(0, 0)  # a group of its own, which is ended with it
    multiprocessing.set_start_method(start_method, force=True)
    os.chdir(folder)
    reseed(_SEED)
    model, trainer = make_model(), make_trainer()
    recorder = Recorder(step, Path(folder) / _SAVED)
    trainer.callbacks.insert(0, recorder)
    if ckpt_path is not None:
        reseed(_OTHER_SEED)
    fit(trainer, model, ckpt_path)
    (Path(folder) / _RECORD).write_text(json.dumps(recorder.record(trainer)))
