"""Modify checkpointing behavior: the two best in a folder, and the path of the best."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

model = Small()  # supplied

checkpoint_callback = ModelCheckpoint(dirpath="my/path/", save_top_k=2, monitor="val_loss")
trainer = Trainer(callbacks=[checkpoint_callback])
trainer.fit(model)
checkpoint_callback.best_model_path  # noqa: B018
print(checkpoint_callback.best_model_path)  # supplied
