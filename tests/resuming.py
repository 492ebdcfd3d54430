"""A fit, and the same one resumed from each of its checkpoints: for tests of what callbacks keep."""

from __future__ import annotations

import torch

from holdfast.callbacks import ModelCheckpoint
from sameness import same
from small_fits import Net, fit, names


def saver(folder):
    """Keeps a file of each step."""
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def at_ends(folder):
    """Keeps a file of each epoch's end."""
    return ModelCheckpoint(folder, "{step}", save_top_k=-1)


def copied(value):
    """What does not change when training goes on."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, (list, tuple)) else value


def end_of(trainer, callback):
    """All that must be equal at the end of a fit, the callback's state with it."""
    return copied(
        {
            "weights": dict(trainer.lightning_module.state_dict()),
            "optimizers": [o.state_dict() for o in trainer.optimizers],
            "rates": [group["lr"] for o in trainer.optimizers for group in o.param_groups],
            "schedulers": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
            "frozen": [name for name, p in trainer.lightning_module.named_parameters() if not p.requires_grad],
            "progress": trainer.loop.progress,
            "callback": callback.state_dict(),
        }
    )


def differing(folder, make_callback, *, net=Net, saver=saver, epochs=3, but=(), **options):
    """The checkpoints of a fit from which a resumed one does not end as it did; and how many there were.

    Each resumed fit begins with another seed, in a folder of its own, with a module and callbacks made anew.
    """
    callback = make_callback()
    options = {"shuffle": True, "max_epochs": epochs, **options}
    whole = fit(folder / "whole", callback, saver(folder / "whole"), make=net, **options)
    wanted = end_of(whole, callback)
    found = names(folder / "whole")
    wrong = []
    for name in found:
        again = make_callback()
        resumed = fit(
            folder / name, again, make=net, ckpt_path=folder / "whole" / name, seed=99, enable_checkpointing=False,
            **options,
        )  # fmt: skip
        got = end_of(resumed, again)
        wrong += [(name, part) for part in wanted if part not in but and not same(got[part], wanted[part])]
    return wrong, len(found)
