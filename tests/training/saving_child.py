"""Fits in processes of their own that a signal ends."""

from __future__ import annotations

import os
import signal
import sys

from holdfast.callbacks import Callback, ModelCheckpoint
from small_fits import Net, fit


def stumbling(where: str, sig: int):
    """Sends this process a signal: in mid-epoch, twice there, at an epoch's end, in a validation or sanity check."""

    def stumble(hook, module):
        sanity = module.trainer.sanity_checking
        here = {
            "mid-epoch": hook == "training_step" and module.global_step == 5,
            "twice": hook == "training_step" and module.global_step == 5,
            "epoch's end": hook == "on_train_epoch_end",
            "validation": hook == "validation_step" and not sanity,
            "sanity": hook == "validation_step" and sanity,
        }
        if here[where]:
            if where == "twice":
                module.trainer.saving.settle()  # the epoch before is durable
                os.kill(os.getpid(), sig)
            os.kill(os.getpid(), sig)
            if where == "twice":
                signal.pause()  # a step that never ends

    return stumble


class AtEpochsEnd(Callback):
    """Lets the module stumble there too."""

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.stumble("on_train_epoch_end", pl_module)


def main(folder: str, where: str, sig: int, last: bool) -> None:
    """Train until the signal comes."""
    net = Net(stumble=stumbling(where, sig))
    callback = ModelCheckpoint(folder, every_n_epochs=1, save_last=last)
    fit(folder, callback, AtEpochsEnd(), net=net, max_epochs=3, shuffle=True, num_sanity_val_steps=1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(getattr(signal, sys.argv[3])), last=False)
