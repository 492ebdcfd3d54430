"""Train a very small GPT-2 of transformers' on a made-up language, from random weights, and let it speak.

python tiny_lm.py --root runs/lm
python tiny_lm.py --root runs/lm --evaluate runs/lm/checkpoints/*.ckpt
"""

import argparse
import json
import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import grad_norm
from torch.utils.data import DataLoader, Dataset
from transformers import GPT2Config, GPT2LMHeadModel, get_linear_schedule_with_warmup

WORDS = ("the", "a", "small", "red", "ship", "crab", "kelp", "holds", "leaves", "meets", "rock", "storm", ".")
VOCABULARY = {word: index for index, word in enumerate(("<pad>", *WORDS))}


def sentences(count, seed):
    """Sentences of a grammar with three rules."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*options):
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    def noun():
        adjective = pick("", "small", "red")
        return f"{pick('the', 'a')} {adjective} {pick('ship', 'crab', 'kelp', 'rock', 'storm')}"

    return [f"{noun()} {pick('holds', 'leaves', 'meets')} {noun()} ." for _ in range(count)]


class Language(Dataset):
    def __init__(self, count, seed, length):
        words = " ".join(sentences(count, seed)).split()
        self.tokens = torch.tensor([VOCABULARY[word] for word in words])
        self.length = length

    def __len__(self):
        return len(self.tokens) // self.length

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index * self.length : (index + 1) * self.length]}


def collate(items):
    ids = torch.stack([item["input_ids"] for item in items])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


class LanguageData(L.LightningDataModule):
    def __init__(self, length=12, batch_size=8):
        super().__init__()
        self.length = length
        self.batch_size = batch_size

    def setup(self, stage):
        if stage == "fit":
            self.train = Language(140, seed=1, length=self.length)
        if stage in ("fit", "validate"):
            self.val = Language(40, seed=2, length=self.length)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, collate_fn=collate, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, self.batch_size, collate_fn=collate)


class TinyGPT(L.LightningModule):
    def __init__(self, width=32, layers=2, heads=2, lr=5e-3, weight_decay=0.1, warmup_share=0.2, dropout=0.1):
        super().__init__()
        self.save_hyperparameters()
        config = GPT2Config(
            vocab_size=len(VOCABULARY),
            n_positions=32,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=VOCABULARY["the"],
            eos_token_id=VOCABULARY["."],
            pad_token_id=0,
        )
        self.model = GPT2LMHeadModel(config)
        self.norms = []

    def forward(self, **batch):
        return self.model(**batch)

    def training_step(self, batch, batch_idx):
        loss = self(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        self.log("lr", self.lr_schedulers().get_last_lr()[0])
        return loss

    def validation_step(self, batch, batch_idx):
        loss = self(**batch).loss
        self.log("val_loss", loss, prog_bar=True, batch_size=batch["input_ids"].size(0))
        self.log("val_perplexity", torch.exp(loss), batch_size=batch["input_ids"].size(0))

    def on_before_optimizer_step(self, optimizer):
        norms = grad_norm(self.model, norm_type=2)
        self.norms.append(norms["grad_2.0_norm_total"].item())
        self.log("grad_norm", norms["grad_2.0_norm_total"])

    def configure_optimizers(self):
        no_decay = ("bias", "ln_1.weight", "ln_2.weight", "ln_f.weight")
        named = list(self.model.named_parameters())
        groups = [
            {
                "params": [p for n, p in named if not n.endswith(no_decay)],
                "weight_decay": self.hparams.weight_decay,
            },
            {"params": [p for n, p in named if n.endswith(no_decay)], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams.lr)
        total = self.trainer.estimated_stepping_batches
        scheduler = get_linear_schedule_with_warmup(
            optimizer, num_warmup_steps=int(self.hparams.warmup_share * total), num_training_steps=total
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": 1}]


def speak(model, start="the"):
    model.eval()
    ids = torch.tensor([[VOCABULARY[start]]])
    with torch.no_grad():
        made = model.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
    words = {index: word for word, index in VOCABULARY.items()}
    return " ".join(words[int(token)] for token in made[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=50)
    parser.add_argument("--evaluate", type=Path, nargs="*")
    args = parser.parse_args()
    if args.evaluate is not None:
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        found = {}
        for path in args.evaluate:
            model = TinyGPT.load_from_checkpoint(path)
            found[str(path)] = {**trainer.validate(model, LanguageData(), verbose=False)[0], "says": speak(model)}
        print(json.dumps(found))
        return

    L.seed_everything(2024)
    model, data = TinyGPT(), LanguageData()
    checkpoint = ModelCheckpoint(
        dirpath=args.root / "checkpoints",
        filename="lm-{step:03d}-{val_loss:.2f}",
        monitor="val_loss",
        save_top_k=2,
        save_last="link",
    )
    regular = ModelCheckpoint(
        dirpath=args.root / "regular", filename="every-{step}", every_n_train_steps=20, save_top_k=-1
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        strategy="auto",
        precision="32-true",
        max_steps=args.max_steps,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        val_check_interval=10,
        check_val_every_n_epoch=None,
        callbacks=[checkpoint, regular, TQDMProgressBar(refresh_rate=10)],
        logger=CSVLogger(args.root, "csv"),
        log_every_n_steps=5,
    )
    trainer.fit(model, data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    best = TinyGPT.load_from_checkpoint(checkpoint.best_model_path, map_location=torch.device("cpu"))
    best.model.save_pretrained(args.root / "pretrained")
    again = GPT2LMHeadModel.from_pretrained(args.root / "pretrained")
    weights = best.model.state_dict()
    same = all(torch.equal(weights[name], value) for name, value in again.state_dict().items())
    print(
        json.dumps(
            {
                **metrics,
                "perplexity": math.exp(metrics["val_loss"]),
                "best": Path(checkpoint.best_model_path).name,
                "best_score": checkpoint.best_model_score.item(),
                "norms": model.norms,
                "step": trainer.global_step,
                "epoch": trainer.current_epoch,
                "total": trainer.estimated_stepping_batches,
                "says": speak(best),
                "same_pretrained": same,
                "tied": best.model.lm_head.weight.data_ptr() == best.model.transformer.wte.weight.data_ptr(),
            }
        )
    )


if __name__ == "__main__":
    main()
