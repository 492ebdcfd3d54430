"""Which: by the loss of the validation."""

from small import Small, Trainer  # supplied
from torch.nn import functional as F  # supplied

from holdfast import LightningModule  # supplied
from holdfast.callbacks import ModelCheckpoint


class LitAutoEncoder(Small, LightningModule):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self.backbone(x)
        loss = F.cross_entropy(y_hat, y)
        self.log("val_loss", loss)


checkpoint_callback = ModelCheckpoint(monitor="val_loss")
trainer = Trainer(callbacks=[checkpoint_callback])
trainer.fit(LitAutoEncoder())  # supplied
