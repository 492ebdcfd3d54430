"""Saving and loading weights: the ways to call load_from_checkpoint, and to predict."""

from pathlib import Path

import torch
from small import Small, Trainer  # supplied


class MyLightningModule(Small):  # supplied
    def __init__(self, num_layers=2, pretrained_ckpt_path="old"):  # supplied
        super().__init__()  # supplied
        self.save_hyperparameters()  # supplied

    def forward(self, x):  # supplied
        return self.backbone(x)  # supplied


PATH, NEW_PATH, x = "path/to/checkpoint.ckpt", "new", torch.ones(1, 4)  # supplied
trainer = Trainer(enable_checkpointing=False)  # supplied
trainer.fit(MyLightningModule())  # supplied
trainer.save_checkpoint(PATH)  # supplied
Path("path/to/hparams_file.yaml").write_text("num_layers: 7\n")  # supplied

# load weights without mapping ...
MyLightningModule.load_from_checkpoint("path/to/checkpoint.ckpt")

# or load weights mapping all weights from GPU 1 to GPU 0 ...
map_location = {"cuda:1": "cuda:0"}
MyLightningModule.load_from_checkpoint("path/to/checkpoint.ckpt", map_location=map_location)

# or load weights and hyperparameters from separate files.
separate = MyLightningModule.load_from_checkpoint("path/to/checkpoint.ckpt", hparams_file="path/to/hparams_file.yaml")
assert separate.hparams.num_layers == 7  # supplied

# override some of the params with new values
pretrained_model = MyLightningModule.load_from_checkpoint(PATH, num_layers=128, pretrained_ckpt_path=NEW_PATH)
assert dict(pretrained_model.hparams) == {"num_layers": 128, "pretrained_ckpt_path": NEW_PATH}  # supplied

# predict
pretrained_model.eval()
pretrained_model.freeze()
y_hat = pretrained_model(x)
assert not y_hat.requires_grad  # supplied
