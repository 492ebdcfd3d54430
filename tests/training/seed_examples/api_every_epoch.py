"""ModelCheckpoint: at every epoch, into a folder."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

# saves checkpoints to 'my/path/' at every epoch
checkpoint_callback = ModelCheckpoint(dirpath="my/path/")
trainer = Trainer(callbacks=[checkpoint_callback])
trainer.fit(Small())  # supplied
