"""Saving and loading weights: automatic saving, in another root."""

from small import Small, Trainer  # supplied

# saves checkpoints to '/your/path/to/save/checkpoints' at every epoch end
trainer = Trainer(default_root_dir="your/path/to/save/checkpoints")
trainer.fit(Small())  # supplied
