"""Saving and loading weights: by the validation's loss; the path of the best."""

from small import LOSSES, Small, Trainer  # supplied
from torch.nn import functional as F  # supplied

from holdfast import LightningModule  # supplied
from holdfast.callbacks import ModelCheckpoint


class LitAutoEncoder(Small, LightningModule):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self.backbone(x)
        loss = F.cross_entropy(y_hat, y)
        loss = LOSSES[self.current_epoch] + 0 * loss  # supplied
        self.log("val_loss", loss)


# saves a file like: my/path/sample-mnist-epoch=02-val_loss=0.32.ckpt
checkpoint_callback = ModelCheckpoint(
    monitor="val_loss",
    dirpath="my/path/",
    filename="sample-mnist-{epoch:02d}-{val_loss:.2f}",
    save_top_k=3,
    mode="min",
)

trainer = Trainer(callbacks=[checkpoint_callback])
model = LitAutoEncoder()  # supplied
trainer.fit(model)
assert checkpoint_callback.best_model_path.endswith("epoch=02-val_loss=0.32.ckpt")  # supplied
