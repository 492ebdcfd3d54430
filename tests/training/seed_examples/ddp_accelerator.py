"""Save by hand with distributed training (1.5)."""

import functools  # supplied

from small import Small, Trainer  # supplied

Trainer, hparams, MyLightningModule = functools.partial(Trainer, devices=2), None, Small  # supplied

trainer = Trainer(accelerator="ddp")
model = MyLightningModule(hparams)
trainer.fit(model)
# Saves only on the main process
trainer.save_checkpoint("example.ckpt")
