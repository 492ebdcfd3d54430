"""Any value that is logged can be monitored: here one of the training step."""

from small import Small, Trainer  # supplied

import holdfast as L
from holdfast.callbacks import ModelCheckpoint  # supplied


class LitModel(Small, L.LightningModule):
    def training_step(self, batch, batch_idx):
        x = self.global_step  # supplied
        self.log("my_metric", x)
        return super().training_step(batch, batch_idx)  # supplied


checkpoint_callback = ModelCheckpoint(monitor="my_metric")
Trainer(callbacks=[checkpoint_callback]).fit(LitModel())  # supplied
