"""ModelCheckpoint: a metric with a slash, formatted by the user."""

from small import LOSSES, Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint


class Logs(Small):  # supplied
    def validation_step(self, batch, batch_idx):  # supplied
        self.log("val/loss", LOSSES[self.current_epoch])  # supplied


# saves a file like: my/path/sample-mnist-epoch02-val_loss0.32.ckpt
checkpoint_callback = ModelCheckpoint(
    monitor="val/loss",
    dirpath="my/path/",
    filename="sample-mnist-epoch{epoch:02d}-val_loss{val/loss:.2f}",
    auto_insert_metric_name=False,
)
Trainer(callbacks=[checkpoint_callback]).fit(Logs())  # supplied
