"""Which: the ten newest, by a step that the module logs."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint


class Logs(Small):  # supplied
    def training_step(self, batch, batch_idx):  # supplied
        self.log("global_step", float(self.global_step))  # supplied
        return super().training_step(batch, batch_idx)  # supplied


checkpoint_callback = ModelCheckpoint(
    save_top_k=10,
    monitor="global_step",
    mode="max",
    dirpath="my/path/",
    filename="sample-mnist-{epoch:02d}-{global_step}",
)
Trainer(callbacks=[checkpoint_callback]).fit(Logs())  # supplied
