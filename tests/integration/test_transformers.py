"""Hugging Face's Trainer, given the optimizer and its schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fgunlearn as fg

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate, which is not installed")


def tiny_model() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def samples() -> list[dict[str, Any]]:
    words = torch.randint(2, 50, (64, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": int(row[0] > 25)} for row in words]


def train(model: Any, optimizer: Any, folder: Path, kind: Any = None, **options: Any) -> Any:
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=24)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=24,
        per_device_train_batch_size=16,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=6,
        **options,
    )
    trainer = (kind or transformers.Trainer)(
        model=model, args=arguments, train_dataset=samples(), optimizers=(optimizer, scheduler)
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}],
    ids=["plain", "accumulation", "bf16"],
)
def test_the_trainer_trains_the_selection_alone(options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model()
    selection = fg.select(model, [], None, fg.RandomK(0.3))
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.02), selection, model=model)
    with fg.no_drift(model, selection):
        trainer = train(model, optimizer, tmp_path, **options)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.002)
    states = [s["exp_avg"].numel() for s in optimizer.state.values()]
    assert 0 < sum(states) <= selection.k


@pytest.mark.skipif(not hasattr(transformers.Trainer, "_clip_grad_norm"), reason="this Trainer clips in place")
def test_the_trainer_trains_with_gradients_freed(tmp_path: Path) -> None:
    models = [tiny_model(), tiny_model()]
    for model, free_grads in zip(models, (False, True), strict=True):
        selection = fg.select(model, [], None, fg.RandomK(0.3))
        wrapped = torch.optim.AdamW(model.parameters(), lr=0.02)
        optimizer = fg.SparseOptimizer(wrapped, selection, free_grads=free_grads)

        class Clipping(transformers.Trainer):  # type: ignore[misc, name-defined]
            """Clips the selected gradient; torch's own function, the Trainer's choice, refuses freed ones."""

            def _clip_grad_norm(self, _: Any, chosen: fg.SparseOptimizer = optimizer) -> torch.Tensor:
                return fg.clip_grad_norm_(chosen, self.args.max_grad_norm)

        train(model, optimizer, tmp_path, Clipping, gradient_accumulation_steps=2)
    assert all(p.equal(q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_the_trainers_checkpoint_holds_the_optimizers_state(tmp_path: Path) -> None:
    model = tiny_model()
    selection = fg.select(model, [], None, fg.RandomK(0.3))
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.02), selection)
    trainer = train(model, optimizer, tmp_path)
    trainer._save_optimizer_and_scheduler(str(tmp_path))
    saved = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    twin = fg.SparseOptimizer(torch.optim.AdamW(tiny_model().parameters()), selection)
    twin.load_state_dict(saved)
    for p, q in zip(model.parameters(), twin.param_groups[0]["params"], strict=True):
        if p in optimizer.state:
            assert optimizer.state[p]["exp_avg_sq"].equal(twin.state[q]["exp_avg_sq"])
