"""ModelCheckpoint: whatever is logged in a name."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint


class Logs(Small):  # supplied
    def validation_step(self, batch, batch_idx):  # supplied
        super().validation_step(batch, batch_idx)  # supplied
        self.log("other_metric", 0.03)  # supplied


# save any arbitrary metrics like `val_loss`, etc. in name
checkpoint_callback = ModelCheckpoint(
    dirpath="my/path",
    filename="{epoch}-{val_loss:.2f}-{other_metric:.2f}",
)
Trainer(callbacks=[checkpoint_callback]).fit(Logs())  # supplied
