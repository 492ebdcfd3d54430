"""Save by hand with distributed training (2.x)."""

import functools  # supplied

from small import Small, Trainer  # supplied

Trainer, hparams, MyLightningModule = functools.partial(Trainer, devices=2), None, Small  # supplied

trainer = Trainer(strategy="ddp")
model = MyLightningModule(hparams)
trainer.fit(model)
# Saves only on the main process
# Handles strategy-specific saving logic like XLA, FSDP, DeepSpeed etc.
trainer.save_checkpoint("example.ckpt")
