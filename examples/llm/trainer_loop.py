"""The same repair by Hugging Face's Trainer, for those whose training is built on it."""

from __future__ import annotations

import tempfile
from typing import Any

import transformers
from torch import Tensor, nn

import fgunlearn as fg
from removal import Recipe, RepairLoss, repair_optimizer
from tokens import Batches


class RepairTrainer(transformers.Trainer):
    """A Trainer with the loss of the repair, and batches that are made already.

    Where the Trainer's own loss and data will do, ``Trainer(..., optimizers=(optimizer, schedule))`` is enough, with
    ``_clip_grad_norm`` as it is here.
    """

    def __init__(self, *, batches: Batches, repair_loss: RepairLoss, **options: Any) -> None:
        super().__init__(**options)
        self._made, self._repair_loss = batches, repair_loss

    def get_train_dataloader(self) -> Any:
        """The batches, in the order of the plain loop."""
        return self._made

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the plain loop."""
        return self._repair_loss(model, inputs)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        # The norm of the selected gradient; torch's own function can't read freed gradients before torch 2.14.
        return fg.clip_grad_norm_(self.optimizer.optimizer, self.args.max_grad_norm)


def repair_by_trainer(
    model: nn.Module, selection: fg.Selection, retain: Batches, loss_fn: RepairLoss, recipe: Recipe, cpu: bool
) -> None:
    """What :func:`removal.repair` does, in one process."""
    optimizer, schedule = repair_optimizer(model, selection, recipe, recipe.epochs * len(retain))
    with tempfile.TemporaryDirectory() as folder, optimizer:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=recipe.epochs,
            max_grad_norm=recipe.max_norm,
            use_cpu=cpu,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = RepairTrainer(
            batches=retain, repair_loss=loss_fn, model=model, args=arguments, optimizers=(optimizer, schedule)
        )
        trainer.train()
    model.eval()
