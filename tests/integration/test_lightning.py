"""Lightning's Trainer, which gets the optimizer from ``configure_optimizers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg

lightning = pytest.importorskip("lightning", reason="lightning is not installed")


class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        self.selection = fg.select(self.net, [], None, fg.RandomK(0.5))
        self.losses: list[float] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.losses.append(float(loss))
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = fg.SparseOptimizer(torch.optim.AdamW(self.net.parameters(), lr=0.02), self.selection)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and loggers
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}],
    ids=["plain", "clipped", "accumulation", "bf16"],
)
def test_lightning_trains_the_selection_alone(options: dict[str, Any], tmp_path: Path) -> None:
    module = Classifier()
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, x[:, :3].argmax(1)), batch_size=32, shuffle=False
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=32,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with fg.no_drift(module.net, module.selection):
        trainer.fit(module, batches)
    assert sum(module.losses[-8:]) < 0.7 * sum(module.losses[:8])
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, fg.SparseOptimizer)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    saved = torch.load(tmp_path / "state.ckpt", weights_only=False)["optimizer_states"][0]
    optimizer.load_state_dict(saved)
