"""Saving and loading weights: the arguments of __init__ are in the file, and come back."""

import torch
from small import Small, Trainer  # supplied

from holdfast import LightningModule  # supplied


class MyLightningModule(Small, LightningModule):
    def __init__(self, learning_rate, *args, **kwargs):
        super().__init__()
        self.save_hyperparameters()

    def forward(self, x):  # supplied
        return self.backbone(x)  # supplied


the_value, PATH = 0.02, "lightning_logs/version_0/checkpoints/epoch=2-step=15.ckpt"  # supplied
CKPT_PATH, x = PATH, torch.ones(1, 4)  # supplied
Trainer().fit(MyLightningModule(the_value))  # supplied

# all init args were saved to the checkpoint
checkpoint = torch.load(CKPT_PATH)
assert checkpoint["hyper_parameters"] == {"learning_rate": the_value}

model = MyLightningModule.load_from_checkpoint(PATH)

print(model.hparams.learning_rate)
# prints the learning_rate you used in this checkpoint

model.eval()
y_hat = model(x)
assert y_hat.shape == (1, 4)  # supplied
