"""The Lightning shell around the classifier: loss, optimiser, validation figures."""

from __future__ import annotations

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional

from stillwatch.model.classifier import Classifier, ClassifierConfig
from stillwatch.training.datamodule import StreamBatch
from stillwatch.training.metrics import recall_at

ENOUGH_EVIDENCE = 8
"""Attack prompts after which a stream counts fully as an attack; before, the loss grows to it."""


def stream_loss(output: Tensor, batch: StreamBatch, event_weight: float = 0.5) -> Tensor:
    """Cross-entropy of risk and intents at each event, and of each event's own intents.

    output (B, T, 1 + 2I). An attacking stream is to be told from its attack prompts, so an event
    counts by how many of them have come by then; an ordinary stream must look ordinary
    throughout. Each stream has the same weight whatever its length, half of it on its last third.
    """
    intents = batch.intents.shape[1]
    mask = batch.mask()
    attacking = batch.intents.amax(dim=1)
    seen = batch.event_intents.amax(dim=2).cumsum(dim=1)
    ready = (seen / ENOUGH_EVIDENCE).clamp(max=1.0)
    steps = torch.arange(mask.shape[1])[None, :]
    late = (steps >= (batch.lengths[:, None] * 2) // 3).float()
    weight = mask * torch.where(attacking[:, None] > 0, ready, torch.ones(())) * (1 + 3 * late)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)

    risk = functional.binary_cross_entropy_with_logits(
        output[..., 0], attacking[:, None].expand_as(output[..., 0]), reduction="none"
    )
    wanted = batch.intents[:, None, :].expand(-1, mask.shape[1], -1)
    by_intent = functional.binary_cross_entropy_with_logits(
        output[..., 1 : 1 + intents], wanted, reduction="none"
    ).mean(dim=2)
    own = functional.binary_cross_entropy_with_logits(
        output[..., 1 + intents :], batch.event_intents, reduction="none"
    ).sum(dim=2)
    own = (own * mask).sum(dim=1) / mask.sum(dim=1)
    return (((risk + by_intent) * weight).sum(dim=1) + event_weight * own).mean()


class ClassifierModule(lightning.LightningModule):
    """Trains a Classifier on StreamBatches; logs `validation/recall_at_1pct` each epoch."""

    def __init__(
        self,
        config: ClassifierConfig,
        learning_rate: float,
        weight_decay: float,
        steps: int,
        seed: int = 0,
    ) -> None:
        """`steps` is the number of batches of the whole training, all epochs together."""
        super().__init__()
        self.classifier = Classifier(config)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.steps, self.seed = steps, seed
        self._validation: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features)

    def on_train_batch_start(self, batch: StreamBatch, _: int) -> None:
        # What is dropped out follows from the step, so that a resumed run draws the same.
        torch.manual_seed((self.seed << 32) + self.global_step)

    def training_step(self, batch: StreamBatch, _: int) -> Tensor:
        # Each member learns by itself: what one is wrong in the others shall not make good for it.
        each = self.classifier.each(batch.features)
        loss = torch.stack([stream_loss(own, batch) for own in each]).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.lengths))
        return loss

    def validation_step(self, batch: StreamBatch, _: int) -> None:
        output = self(batch.features)
        self.log("validation/loss", stream_loss(output, batch), batch_size=len(batch.lengths))
        last = output[torch.arange(len(output)), batch.lengths - 1, 0]
        self._validation.append((last, batch.intents.amax(dim=1)))

    def on_validation_epoch_end(self) -> None:
        scores = torch.cat([s for s, _ in self._validation]).numpy()
        attacking = torch.cat([a for _, a in self._validation]).numpy() > 0
        self._validation.clear()
        if attacking.any() and (~attacking).any():
            recall = recall_at(scores[attacking], scores[~attacking], 0.01)
            self.log("validation/recall_at_1pct", recall, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        # Not by the trainer's own estimate, which takes every epoch to be as long as the first: the
        # schedule refuses a step more than it was made for.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=max(self.steps, 2), pct_start=0.1
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
