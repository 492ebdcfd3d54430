"""One arm of ``stall``, as a process: trains, saves every so many steps in one way, and tells what that cost.

    python benchmarks/stall_arms.py ARM --megabytes 300 --folder DIRECTORY

It trains up to where a round begins, prints a line of JSON, and waits for a line; with the end of its input it ends.
A round is some steps before a save, the save, and the steps after it. All arms are durable (file and folder synced) and
safe from what training changes meanwhile: an arm that copies on another thread waits for it before the next step of the
optimizer. Only the arm's own packages are imported.
"""

from __future__ import annotations

import argparse
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from course import Course, now

LAYERS = 6


def network(megabytes: float) -> torch.nn.Module:
    """Layers whose parameters and AdamW state take so many MB."""
    torch.manual_seed(0)
    width = max(8, int((megabytes * 1e6 / 3 / 4 / LAYERS) ** 0.5))
    layers: list[torch.nn.Module] = []
    for _ in range(LAYERS):
        layers += [torch.nn.Linear(width, width), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)


def loss_of(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """What is made small."""
    return model(batch).square().mean()


def optimizer_of(model: torch.nn.Module, course: Course) -> torch.optim.Optimizer:
    """AdamW; how long its steps take without what waits before them is noted."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    start = [0.0]
    optimizer.register_step_pre_hook(lambda *_: start.__setitem__(0, now()))
    optimizer.register_step_post_hook(lambda *_: course.stepping.append(now() - start[0]))
    return optimizer


def sync(path: Path) -> None:
    """Make a file or all in a folder durable, and the name."""
    for one in [*(path.rglob("*") if path.is_dir() else ()), path, path.parent]:
        fd = os.open(one, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


# Plain loops


def loop(course: Course, model: torch.nn.Module, save: Callable[[Any, Path], Any], folder: Path, fence: Any) -> None:
    """Train; every so many steps call ``save``, which returns when training may go on up to ``fence``."""
    optimizer = optimizer_of(model, course)
    for number, batch in enumerate(course, 1):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        with course.held():
            fence()
        optimizer.step()
        if number % course.steps == 0:
            path = folder / str(number)
            course.spent.append(path)
            course.begin(now())
            with course.held():
                save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


def at_once(course: Course, save: Callable[[Any, Path], Any]) -> Callable[[Any, Path], None]:
    """A save that is over when it returns, but for making it durable."""

    def saving(state: Any, path: Path) -> None:
        save(state, path)
        sync(path)
        course.is_safe()
        course.is_durable()

    return saving


def with_torch(course: Course, model: torch.nn.Module, folder: Path) -> None:
    """``torch.save`` and fsync."""
    loop(course, model, at_once(course, torch.save), folder, lambda: None)


def writer_and_planner(path: Path) -> dict[str, Any]:
    """What a DCP save is best given here."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    writer = dcp.FileSystemWriter(path, single_file_per_rank=True, sync_files=True, thread_count=2)
    return {"storage_writer": writer, "planner": DefaultSavePlanner(enable_plan_caching=True)}


def with_dcp(course: Course, model: torch.nn.Module, folder: Path) -> None:
    """``dcp.save``."""
    import torch.distributed.checkpoint as dcp

    def save(state: Any, path: Path) -> None:
        dcp.save(state, **writer_and_planner(path))

    loop(course, model, at_once(course, save), folder, lambda: None)


def with_dcp_async(course: Course, model: torch.nn.Module, folder: Path, *, process: bool) -> None:
    """``dcp.async_save``, staging on a thread into memory that is kept, waited for before the optimizer's step."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

    if process:  # it wants a group, though it is one of one
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    stager = DefaultStager(StagingOptions(False, process, True, False))
    pending: list[Any] = []

    def save(state: Any, path: Path) -> None:
        answer = dcp.async_save(
            state,
            async_stager=stager,
            async_checkpointer_type=AsyncCheckpointerType.PROCESS if process else AsyncCheckpointerType.THREAD,
            **writer_and_planner(path),
        )
        answer.staging_completion.add_done_callback(course.is_safe)
        answer.upload_completion.add_done_callback(lambda done: (done.result(), sync(path), course.is_durable()))
        pending.append(answer)

    def fence() -> None:
        while pending:
            pending.pop().staging_completion.result()

    loop(course, model, save, folder, fence)


def with_meta(course: Course, model: torch.nn.Module, folder: Path) -> None:
    """``torch_checkpointing`` with its lock. Its direct writes fail on an unaligned end here: buffered ones."""
    from torch_checkpointing import CheckpointManager
    from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

    manager = CheckpointManager.Config(storage_config=LocalFileSystemStorageConfig(use_direct_io=False)).build()
    guard = manager.lock()

    def save(state: Any, path: Path) -> None:
        written = manager.save(str(path), state)
        manager._staging_future.add_done_callback(course.is_safe)
        written.add_done_callback(lambda done: (done.result(), sync(path), course.is_durable()))

    def fence() -> None:
        with guard:  # taken and let go: no other save begins before the step
            pass

    loop(course, model, save, folder, fence)


def with_checkpointer(course: Course, model: torch.nn.Module, folder: Path) -> None:
    """Holdfast in a plain loop, by default."""
    from holdfast import Checkpointer, every

    watch_holdfast(course)
    optimizer = optimizer_of(model, course)
    with Checkpointer(folder / "run", when=every(steps=course.steps)) as ckpt:
        ckpt.resume("fresh", model=model, optimizer=optimizer)
        for batch in course:
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
            ckpt.step()


def burning(course: Course, model: torch.nn.Module, folder: Path) -> None:
    """No save: a thread that does the same checksums and writes, of memory that nobody changes."""
    import write_read

    shape = {f"{kind}.{name}": p for kind in ("model", "avg", "square") for name, p in model.named_parameters()}
    still = {name: torch.rand_like(p) for name, p in shape.items()}

    def burn(path: Path) -> None:
        write_read.with_holdfast(path, still)
        course.is_durable()

    def save(state: Any, path: Path) -> None:
        threading.Thread(target=burn, args=(path,)).start()
        course.is_safe()

    loop(course, model, save, folder, lambda: None)


def watch_holdfast(course: Course) -> None:
    """Note what holds the training thread, and when a save is over, from the outside."""
    from holdfast.engine import fence
    from holdfast.engine.engine import Engine
    from holdfast.engine.mover import Mover

    decide, begin, save = Engine.decide, Mover.begin, Mover._save
    wait, read = fence._wait, fence.Window.returned
    looked = [0.0]

    def deciding(self: Any, moment: Any) -> Any:
        looked[0] = now()
        with course.held():
            return decide(self, moment)

    def beginning(self: Any, wanted: Any) -> Any:
        with course.held():
            tickets = begin(self, wanted)
        course.begin(looked[0])
        return tickets

    def saving(self: Any, *args: Any) -> Any:
        try:
            return save(self, *args)
        finally:
            course.is_durable()

    def waiting(optimizer: Any) -> None:
        with course.held():
            wait(optimizer)

    def returned(self: Any) -> None:
        read(self)
        course.is_safe()

    Engine.decide, Mover.begin, Mover._save = deciding, beginning, saving
    fence._wait, fence.Window.returned = waiting, returned


# Trainers


def with_trainer(course: Course, model: torch.nn.Module, folder: Path) -> None:
    """Holdfast's Trainer, by default."""
    import holdfast
    from holdfast.callbacks import ModelCheckpoint

    watch_holdfast(course)
    callback = ModelCheckpoint(dirpath=folder / "run", every_n_train_steps=course.steps)
    fit(holdfast, course, model, folder, [callback])


def with_lightning(course: Course, model: torch.nn.Module, folder: Path, *, background: bool) -> None:
    """Lightning's Trainer, with fsync of file and folder after its own write."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

    class Durable(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint(checkpoint, path, storage_options)
            sync(Path(path))
            course.is_durable()

    class Watched(ModelCheckpoint):
        def on_train_batch_end(self, *args: Any) -> None:
            start, before = now(), self._last_global_step_saved
            with course.held():
                super().on_train_batch_end(*args)
            if self._last_global_step_saved != before:
                course.begin(start)
                course.is_safe()

    plugin = AsyncCheckpointIO(Durable()) if background else Durable()
    callback = Watched(dirpath=folder / "run", every_n_train_steps=course.steps)
    fit(lightning, course, model, folder, [callback], plugins=[plugin])


def fit(package: Any, course: Course, model: Any, folder: Path, callbacks: list[Any], **options: Any) -> None:
    """Either trainer, quiet, on one core."""

    class Trained(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return loss_of(self.model, batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self.model, course)

    trainer = package.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(Trained(), course)


ARMS: dict[str, Callable[[Course, torch.nn.Module, Path], None]] = {
    "Holdfast Trainer": with_trainer,
    "Holdfast loop": with_checkpointer,
    "CPU burner, no save": burning,
    "Lightning async": lambda *given: with_lightning(*given, background=True),
    "Lightning sync": lambda *given: with_lightning(*given, background=False),
    "torch.save": with_torch,
    "dcp.save": with_dcp,
    "dcp.async_save, thread": lambda *given: with_dcp_async(*given, process=False),
    "dcp.async_save, process": lambda *given: with_dcp_async(*given, process=True),
    "torch_checkpointing": with_meta,
}


def main() -> None:
    """Train until the parent has enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", type=Path, required=True)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print is not for the parent
    model = network(asked.megabytes)
    course = Course(torch.randn(asked.batch, model[0].in_features), asked.steps, parent)
    ARMS[asked.arm](course, model, asked.folder)


if __name__ == "__main__":
    main()
