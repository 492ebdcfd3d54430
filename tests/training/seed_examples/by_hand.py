"""Save by hand, and load."""

from small import Small, Trainer  # supplied

hparams, MyLightningModule, trainer = None, Small, Trainer()  # supplied

model = MyLightningModule(hparams)
trainer.fit(model)
trainer.save_checkpoint("example.ckpt")

new_model = MyLightningModule.load_from_checkpoint(checkpoint_path="example.ckpt")
assert all((a == b).all() for a, b in zip(model.parameters(), new_model.parameters(), strict=True))  # supplied
