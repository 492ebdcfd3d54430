"""ModelCheckpoint: retrieve the best after training."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

checkpoint_callback = ModelCheckpoint(dirpath="my/path/")
trainer = Trainer(callbacks=[checkpoint_callback])
model = Small()  # supplied
trainer.fit(model)
assert checkpoint_callback.best_model_path.endswith("my/path/epoch=2-step=15.ckpt")  # supplied
