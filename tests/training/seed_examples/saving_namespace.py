"""Saving and loading weights: by hand, with hyperparameters given as one Namespace."""

from argparse import Namespace

from small import Small, Trainer  # supplied

hparams, trainer = Namespace(learning_rate=0.02), Trainer()  # supplied


class MyLightningModule(Small):  # supplied
    def __init__(self, hparams):  # supplied
        super().__init__()  # supplied
        self.save_hyperparameters(hparams)  # supplied


MyModel = MyLightningModule  # supplied

model = MyLightningModule(hparams)
trainer.fit(model)
trainer.save_checkpoint("example.ckpt")
new_model = MyModel.load_from_checkpoint(checkpoint_path="example.ckpt")
assert new_model.hparams == model.hparams  # supplied
