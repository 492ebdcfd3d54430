"""Saving and loading weights: the arguments in the file, or others."""

from small import Small, Trainer  # supplied
from torch import nn  # supplied

from holdfast import LightningModule  # supplied
from holdfast.errors import Incompatible  # supplied

PATH = "example.ckpt"  # supplied


class LitModel(Small, LightningModule):
    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.save_hyperparameters()
        self.l1 = nn.Linear(self.hparams.in_dim, self.hparams.out_dim)


trainer = Trainer()  # supplied

# if you train and save the model like this it will use these values when loading
# the weights. But you can overwrite this
trainer.fit(LitModel(in_dim=32, out_dim=10))  # supplied: fit
trainer.save_checkpoint(PATH)  # supplied

# uses in_dim=32, out_dim=10
model = LitModel.load_from_checkpoint(PATH)
assert (model.hparams.in_dim, model.l1.in_features) == (32, 32)  # supplied

# uses in_dim=128, out_dim=10
refused = ""  # supplied
try:  # supplied: weights of 32 are no weights of 128, for Lightning as for us
    model = LitModel.load_from_checkpoint(PATH, in_dim=128, out_dim=10)
except Incompatible as error:  # supplied
    refused = str(error)  # supplied
assert "l1.weight ([10, 32] there, [10, 128] here)" in refused  # supplied
model = LitModel.load_from_checkpoint(PATH, in_dim=128, out_dim=10, on_mismatch="skip")  # supplied
assert (model.hparams.in_dim, model.l1.in_features) == (128, 128)  # supplied
