"""The state between a trainer and its checkpoints: captures it, finds what to go on from, and puts that back."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import Incompatible, SaveFailed
from holdfast.log import logger
from holdfast.policy.values import Record
from holdfast.policy.what import What
from holdfast.training.assembly import Assembly
from holdfast.training.states import TrainerFn

if TYPE_CHECKING:
    import torch

    from holdfast.engine.group import Group
    from holdfast.engine.job import Captured
    from holdfast.training import home, resume
    from holdfast.training.checkpoint import Parts
    from holdfast.training.checkpoint_io import CheckpointIO
    from holdfast.training.fit import FitLoop

IN_PARTS = "each rank holds a part of the state, and one of them has failed"
"""Why a failure leaves nothing that could be saved."""

_WORDS = ("auto", "best", "last")
"""What ``ckpt_path`` may be instead of a path."""


class Restoring(Assembly):
    """The side of ``Trainer`` that captures and restores the state of a fit."""

    def _own_of_job(self, ckpt_path: Any) -> home.Own | None:
        """What this Slurm job has saved, if Slurm has started it again: that goes before what it was started with."""
        job = self.slurm.restarted()
        if job is None:
            return None
        from holdfast.training import home

        own = home.of_job(job.key, self.checkpoint_callbacks, self._roots(), group=self.strategy.group)
        if own is not None:
            instead = "" if ckpt_path in (None, "auto", "last") else f", and not from ckpt_path={str(ckpt_path)!r}"
            logger.info(
                "Slurm has started job %s again (restart %s): going on from what it has saved%s",
                job.name, job.restarts, instead,
            )  # fmt: skip
        else:
            logger.info(
                "Slurm has started job %s again (restart %s), which has saved nothing to go on from",
                job.name, job.restarts,
            )  # fmt: skip
        return own

    def _found_home(self, ckpt_path: Any, own: home.Own | None) -> Path | None:
        """The folder of the unfinished run that ``"auto"`` goes on with."""
        if ckpt_path != "auto":
            return None
        from holdfast.training import home

        if own is not None:
            placed = self.checkpoint_callbacks and all(c.dirpath for c in self.checkpoint_callbacks)
            return None if placed else home.go_on_in(Path(own.root), self.loggers)
        return home.home(
            self.checkpoint_callbacks, self._roots(), self.loggers,
            module=self.lightning_module, group=self.strategy.group,
        )  # fmt: skip

    def _near(self, ckpt_path: Any) -> list[Path]:
        """Where the words for a checkpoint are looked up."""
        if ckpt_path not in _WORDS:
            return []
        from holdfast.training import home

        return home.near(ckpt_path, self.checkpoint_callbacks, self._roots(), self._home)

    def _opened(
        self, ckpt_path: Any, near: list[Path], weights_only: bool | None, holds: Callable[[Record], bool]
    ) -> resume.Opened | None:
        """The checkpoint that is meant, read whole; None for a fresh start."""
        from holdfast.training import finding, resume
        from holdfast.training.checkpoint import targets

        opened = finding.find(
            ckpt_path, near=near, callback=self.checkpoint_callback, holds=holds,
            begins=self._fn is TrainerFn.FITTING, group=self.strategy.group,
            read=partial(
                resume.open_checkpoint, weights_only=weights_only, io=self.checkpoint_io,
                like=targets(self._parts()) if self.strategy.spread and self.loop is not None else None,
                verifies=self.global_rank == 0,
            ),
            identity=lambda opened: opened.manifest.id,
        )  # fmt: skip
        if opened is not None and self.ckpt_path in (None, *_WORDS):
            self.ckpt_path = opened.path  # what the word meant
        return opened

    def _best_of_fit(self) -> str | None:
        """The best checkpoint of the fit before, where it saved any: as rank 0 sees its folder."""
        from holdfast.training import finding

        callback = self.checkpoint_callback
        path = finding.agreed(
            self.strategy.group, lambda: "" if callback is None else callback.best_model_path, phase="best of the fit"
        )
        return path or None

    def _parts(self) -> Parts:
        from holdfast.training.checkpoint import Parts

        loop = self._running()
        return Parts(
            self.lightning_module,
            self._datamodule,
            self.callbacks,
            self.optimizers,
            [config.scheduler for config in self.lr_scheduler_configs],
            self.strategy,
            loop.state_dict(),
            loop.progress,
            loop.random,
            loop.at_boundary,
            self._group,
            self.fingerprint,
        )

    @property
    def _group(self) -> Group:
        """The ranks that still save together: after a failure each is alone."""
        return self.saving.group if self.saving is not None else self.strategy.group

    def _left_alone(self, path: str) -> bool:
        """Whether a rank has failed, and this one is not rank 0, which saves what it has without asking the others.

        Raises:
            SaveFailed: Each rank has a part of the state: nobody can save it.
        """
        if self._group.size == self.world_size:
            return False
        if self.strategy.spread:
            raise SaveFailed(
                f"was not saved: {IN_PARTS}.", checkpoint=path, rank=self.global_rank, good="What was saved stands."
            )
        return not self.is_global_zero

    def _capture(self, what: What) -> Captured:
        """The state now, as users' hooks leave it."""
        from holdfast.training.checkpoint import captured, dump

        parts = self._parts()
        made = dump(parts, what)
        divided = self.strategy.divides and self.checkpoint_io is None  # a user's own way writes one file
        given: list[torch.Tensor] = []
        if not divided:
            made.root, given = self.strategy.whole(made.root)
        # A file of weights alone is for those who say that they change the weights in it.
        told = [c for c in self.callbacks if what.wants_part("optimizer") or c.edits_weights]
        self.hooks.call_all(self.hooks.of_callbacks("on_save_checkpoint", told), "on_save_checkpoint", made.root)
        self.hooks.call_all(self.hooks.of_module("on_save_checkpoint"), "on_save_checkpoint", made.root)
        return captured(made, parts, given=given, divided=divided)

    def _hand_over(self, io: CheckpointIO, what: What, path: str | os.PathLike[str], storage_options: Any) -> None:
        """Have a user's own way write the state, on rank 0."""
        from holdfast.training import finding

        root = self._capture(what).root

        def write() -> None:
            io.save_checkpoint(root, str(Path(path).expanduser().absolute()), storage_options)

        finding.agreed(self._group, write, phase="save_checkpoint()")

    def _resume(
        self,
        ckpt_path: Any,
        weights_only: bool | None,
        loop: FitLoop,
        near: list[Path],
        own: home.Own | None,
    ) -> resume.Resumed | None:
        """Read, let hooks edit, check all, then put it back; the random state is for the loop to put back last."""
        if ckpt_path is None:
            return None
        from holdfast.catalog import resolve

        opened = self._opened(ckpt_path, near, weights_only, resolve.whole if own is None else own.holds)
        if opened is None:
            return None
        try:
            return self._restored(opened, loop)
        except Incompatible as error:
            if ckpt_path == "auto":  # or each start of this program would end here
                error.advise(
                    "It was found by ckpt_path='auto': to begin anew beside it, give the ModelCheckpoint another "
                    "dirpath or the Trainer another default_root_dir."
                )
            raise

    def _restored(self, opened: resume.Opened, loop: FitLoop) -> resume.Resumed:
        from holdfast.training import resume, resume_report
        from holdfast.training.checkpoint import check, restore

        self.hooks.call("on_load_checkpoint", opened.state)
        resume.take_own_names(opened, self.lightning_module)
        parts, strict = self._parts(), self.lightning_module.strict_loading
        compared = resume_report.Comparison(
            opened.state, self.fingerprint, self.lr_scheduler_configs, self.on_resume, checkpoint=opened.path
        )
        held = opened.manifest
        check(opened.state, parts, checkpoint=opened.path, strict=strict, groups=held.groups, what=held.what)
        restore(compared.state_to_restore(), parts, strict=strict)
        progress, state, resumed = resume.going_on(opened, rank=self.global_rank, size=self.world_size)
        compared.apply(self.optimizers, progress)
        self.fingerprint = compared.kept
        loop.go_on_from(progress, state)
        if self.is_global_zero:
            place = resume_report.place_in_data(progress, loop.batches.size)
            inexact = [*resumed.inexact, *loop.inexact()]
            compared.report(self._parts(), place, inexact, healthy=held.healthy).tell()
        return resumed
