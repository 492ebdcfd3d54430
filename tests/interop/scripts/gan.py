"""Train a small GAN on synthetic images, with manual optimisation.

python gan.py --root runs/gan
python gan.py --root runs/gan --evaluate runs/gan/checkpoints/last.ckpt
"""

import argparse
import json
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

SIDE = 8


def blobs(count, seed):
    """Images of one soft blob each, somewhere in the middle."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2.5 + 3 * torch.rand(count, 2, generator=generator)
    axis = torch.arange(SIDE, dtype=torch.float32)
    rows = torch.exp(-((axis - centres[:, :1]) ** 2) / 3)
    columns = torch.exp(-((axis - centres[:, 1:]) ** 2) / 3)
    return (rows[:, :, None] * columns[:, None, :] * 2 - 1)[:, None]


class BlobData(L.LightningDataModule):
    def __init__(self, batch_size=16, train_size=128, val_size=32):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        if stage in (None, "fit"):
            self.train = TensorDataset(blobs(self.hparams.train_size, seed=1))
        self.val = TensorDataset(blobs(self.hparams.val_size, seed=2))

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.hparams.batch_size, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.hparams.batch_size)


class Generator(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(latent_dim, 32),
            nn.BatchNorm1d(32, 0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(32, SIDE * SIDE),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.model(z).view(z.size(0), 1, SIDE, SIDE)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(SIDE * SIDE, 32),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(32, 1),
        )

    def forward(self, images):
        return self.model(images)


class GAN(L.LightningModule):
    def __init__(self, latent_dim=6, lr=2e-3, b1=0.5, b2=0.999, critic_steps=2):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = Generator(latent_dim)
        self.discriminator = Discriminator()
        self.register_buffer("validation_z", torch.randn(16, latent_dim))
        self.example_input_array = torch.zeros(2, latent_dim)

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy_with_logits(y_hat, y)

    def on_train_epoch_start(self):
        # the noise of an epoch does not depend on where the run was interrupted
        self.noise = torch.Generator().manual_seed(1000 + self.current_epoch)

    def training_step(self, batch, batch_idx):
        (images,) = batch
        optimizer_g, optimizer_d = self.optimizers()
        real = torch.ones(images.size(0), 1, device=self.device)
        fake = torch.zeros_like(real)
        z = torch.randn(images.size(0), self.hparams.latent_dim, generator=self.noise).type_as(images)

        # train the discriminator on every batch
        self.toggle_optimizer(optimizer_d)
        real_loss = self.adversarial_loss(self.discriminator(images), real)
        fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), fake)
        d_loss = (real_loss + fake_loss) / 2
        optimizer_d.zero_grad()
        self.manual_backward(d_loss)
        self.clip_gradients(optimizer_d, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        optimizer_d.step()
        self.untoggle_optimizer(optimizer_d)
        self.log("d_loss", d_loss, prog_bar=True)

        # and the generator on every second
        if (batch_idx + 1) % self.hparams.critic_steps == 0:
            self.toggle_optimizer(optimizer_g)
            g_loss = self.adversarial_loss(self.discriminator(self(z)), real)
            optimizer_g.zero_grad()
            self.manual_backward(g_loss)
            optimizer_g.step()
            self.untoggle_optimizer(optimizer_g)
            self.log("g_loss", g_loss, prog_bar=True)

    def validation_step(self, batch, batch_idx):
        (images,) = batch
        made = self(self.validation_z)
        distance = (made.mean(dim=0) - images.mean(dim=0)).abs().mean()
        self.log_dict({"val_distance": distance, "val_spread": made.std()}, prog_bar=True)

    def on_train_epoch_end(self):
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        betas = (self.hparams.b1, self.hparams.b2)
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=self.hparams.lr, betas=betas)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams.lr, betas=betas)
        sched_g = torch.optim.lr_scheduler.ExponentialLR(opt_g, gamma=0.9)
        sched_d = torch.optim.lr_scheduler.ExponentialLR(opt_d, gamma=0.8)
        return [opt_g, opt_d], [sched_g, sched_d]


class CollectImages(Callback):
    """Keeps a number about the samples of each epoch, and goes on with the list after a resume."""

    def __init__(self):
        self.brightness = []

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.eval()
        with torch.no_grad():
            self.brightness.append(pl_module(pl_module.validation_z).mean().item())
        pl_module.train()

    def state_dict(self):
        return {"brightness": self.brightness}

    def load_state_dict(self, state_dict):
        self.brightness = list(state_dict["brightness"])


def make_trainer(root, max_epochs, name):
    checkpoint = ModelCheckpoint(
        dirpath=root / "checkpoints",
        filename="gan-{epoch:02d}-{step}-{val_distance:.3f}",
        monitor="val_distance",
        save_top_k=-1,
        save_last=True,
    )
    collect = CollectImages()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        logger=CSVLogger(root, name="logs", version=name),
        callbacks=[collect, checkpoint],
        enable_progress_bar=False,
        log_every_n_steps=4,
        default_root_dir=root,
    )
    return trainer, checkpoint, collect


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--max-epochs", type=int, default=4)
    parser.add_argument("--evaluate", type=Path, nargs="*")
    args = parser.parse_args()
    if args.evaluate is not None:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        results = {}
        for path in args.evaluate:
            model = GAN.load_from_checkpoint(path)
            trainer = L.Trainer(accelerator="cpu", enable_model_summary=False, **quiet)
            results[str(path)] = trainer.validate(model, datamodule=BlobData(), verbose=False)[0]
        print(json.dumps(results))
        return

    L.seed_everything(7, workers=True)
    model, data = GAN(), BlobData()
    trainer, checkpoint, collect = make_trainer(args.root, args.max_epochs // 2, "first")
    trainer.fit(model, datamodule=data)
    first_step = trainer.global_step

    # go on from the last epoch, as after a night's pre-emption
    L.seed_everything(8)
    model = GAN(latent_dim=6)
    trainer, checkpoint, collect = make_trainer(args.root, args.max_epochs, "second")
    trainer.fit(model, datamodule=data, ckpt_path=args.root / "checkpoints" / "last.ckpt")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    lrs = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    print(
        json.dumps(
            {
                **metrics,
                "brightness": collect.brightness,
                "best_model_score": checkpoint.best_model_score.item(),
                "best": Path(checkpoint.best_model_path).name,
                "steps": [first_step, trainer.global_step],
                "epochs": trainer.current_epoch,
                "learning_rates": lrs,
                "weights": sum(p.detach().double().abs().sum().item() for p in model.parameters()),
            }
        )
    )


if __name__ == "__main__":
    main()
