"""Everything that is asked of a model after unlearning, beside the source and the retrained model."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn import metrics
from fgunlearn.experiment.data import Batches
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.metrics import Attack, MembershipJudge, Outputs
from fgunlearn.spdgan import SPDGAN

EVALUATION_BATCH = 64  # larger ones spend their time on fresh memory
PARTS = ("forget", "retain", "heldout", "test", "like_forget")
_BINS = 24  # of the histograms of scores
_RELEARN_STEPS = 200
_RELEARN_BATCH = 32


class Seen:
    """What a model says about every part, looked at once, and who is judged a member by it."""

    def __init__(self, model: nn.Module, loaders: dict[str, Batches]) -> None:
        self.outputs = {part: Outputs.of(model, loader, part) for part, loader in loaders.items()}
        judge = MembershipJudge.fit(self.outputs["retain"].losses, self.outputs["heldout"].losses)
        self.members = {part: judge.members(outputs.losses) for part, outputs in self.outputs.items()}

    @property
    def accuracy(self) -> dict[str, float]:
        """Of every part, in [0, 1]."""
        return {part: outputs.accuracy for part, outputs in self.outputs.items()}

    def attacks(self, seed: int) -> dict[str, Attack]:
        """The attack suite: the forget data against never-seen data of its classes."""
        seen = self.outputs
        return metrics.mia_of(
            seen["forget"], seen["like_forget"], retain=seen["retain"], heldout=seen["heldout"], seed=seed
        )

    @property
    def non_members(self) -> float:
        """The share of the forget data that SalUn's attack judges not to be members."""
        return metrics.non_member_share(self.outputs["forget"], self.outputs["retain"], self.outputs["heldout"])


class Measure:
    """All figures of a model, ready for JSON; every part of the data is looked at once per model.

    Args:
        scenario: the data.
        source: the model before unlearning.
        retrained: the reference.
        gan: what shifts the data for the unlearning degree.
        seed: of the bootstrap draws.
        relearn: measure relearn times, which trains copies.
    """

    def __init__(
        self,
        scenario: Scenario,
        source: nn.Module,
        retrained: nn.Module,
        gan: SPDGAN,
        *,
        seed: int = 0,
        relearn: bool = False,
    ) -> None:
        parts = {part: getattr(scenario, part) for part in PARTS}
        # What stands for never-seen data among what a model has learned: no sample of a class that it can't know.
        known = torch.isin(scenario.heldout.labels, torch.unique(scenario.retain.labels))
        parts["heldout"] = scenario.heldout.take(known)
        self._loaders = {part: samples.batches(EVALUATION_BATCH) for part, samples in parts.items()}
        self._relearned_from = scenario.forget.batches(_RELEARN_BATCH)
        self._source, self._retrained = source, retrained
        self._seed, self._relearn = seed, relearn
        self._before, self._reference = Seen(source, self._loaders), Seen(retrained, self._loaders)
        self._reference_attacks = self._reference.attacks(seed)
        # Shifted once: the generator costs as much as the model.
        self._shifted = {part: [*gan.perturbed(self._loaders[part])] for part in ("forget", "test")}
        self._edges = _edges([seen.outputs for seen in (self._before, self._reference)])

    def of(self, model: nn.Module) -> dict[str, Any]:
        """The figures of a model.

        Raises:
            ValueError: its outputs are not finite logits.
        """
        after = Seen(model, self._loaders)
        degree = metrics.unlearning_degree(
            self._source, model, self._shifted["forget"], None, self._shifted["test"], seed=self._seed
        )
        assert degree.net is not None  # there is control data
        assert degree.net_loss is not None
        attacks = after.attacks(self._seed)
        return {
            **{f"accuracy_{part}": after.accuracy[part] for part in ("forget", "retain", "heldout", "test")},
            **self._forgotten(after),
            **self._against_reference(after, attacks),
            "mia": {name: _figures_of(attack) for name, attack in attacks.items()},
            "nomus": metrics.nomus_of(after.accuracy["test"], _accuracy_of(attacks["loss"])),
            **dataclasses.asdict(metrics.similarity(model, self._retrained, self._loaders["test"])),
            "unlearning_degree": dataclasses.asdict(degree.net),
            "unlearning_degree_loss": dataclasses.asdict(degree.net_loss),
            **(self._relearned(model) if self._relearn else {}),
            "scores": self._scores(after),
        }

    def _forgotten(self, after: Seen) -> dict[str, float]:
        before = self._before
        forgetting, retention = (
            rate(before.members[part], after.members[part], before.accuracy[part], after.accuracy[part])
            for part, rate in (("forget", metrics.forgetting_of), ("retain", metrics.retention_of))
        )
        return {
            "forgetting_rate": forgetting.rate,
            "forgetting_rate_accuracy": forgetting.rate_accuracy,
            "memory_retention_rate": retention.rate,
            "memory_retention_rate_accuracy": retention.rate_accuracy,
        }

    def _against_reference(self, after: Seen, attacks: dict[str, Attack]) -> dict[str, float]:
        reference = self._reference
        shares = [{**seen.accuracy, "mia": seen.non_members} for seen in (after, reference)]
        gaps = {name: attack.auc.value - self._reference_attacks[name].auc.value for name, attack in attacks.items()}
        return {
            **{f"gap_{part}": after.accuracy[part] - reference.accuracy[part] for part in ("forget", "retain", "test")},
            "gap_mia": gaps["loss"],
            "gap_mia_worst": max(gaps.values(), key=abs),
            "tug_of_war": metrics.tug_of_war_of(*(seen.accuracy for seen in (after, reference))),
            "average_gap": metrics.average_gap_of(*shares).average,
        }

    def _relearned(self, model: nn.Module) -> dict[str, float]:
        steps = self._steps_to_relearn(model)
        return {"relearn_steps": float(steps), "relearn_ratio": steps / max(1, self._reference_steps)}

    def _steps_to_relearn(self, model: nn.Module) -> int:
        """Until the loss on D_u is at most twice the source's again; no more than _RELEARN_STEPS."""
        return metrics.relearn_time(
            self._source,
            model,
            self._relearned_from,
            tolerance=1.0,
            optimizer=lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, fused=True),
            max_steps=_RELEARN_STEPS,
            check_every=4,
        ).unlearned.steps

    @cached_property
    def _reference_steps(self) -> int:
        return self._steps_to_relearn(self._retrained)

    def _scores(self, after: Seen) -> dict[str, list[float]]:
        """Histograms of log(p_y / (1 - p_y)), as shares of the forget and of the never-seen samples."""
        parts = {"forget": after.outputs["forget"], "unseen": after.outputs["like_forget"]}
        return {
            "edges": self._edges.tolist(),
            **{name: _shares(outputs.log_odds.cpu(), self._edges) for name, outputs in parts.items()},
        }


def _figures_of(attack: Attack) -> dict[str, Any]:
    return {
        "auc": dataclasses.asdict(attack.auc),
        "tpr": dataclasses.asdict(attack.tpr),
        "accuracy": attack.accuracy,
        "member_share": attack.member_share,
    }


def _accuracy_of(attack: Attack) -> float:
    assert attack.accuracy is not None  # it was fitted
    return attack.accuracy


def _edges(seen: list[dict[str, Outputs]]) -> Tensor:
    """Of equal bins over what source and retrained model give, but for half a percent at either end."""
    pooled = torch.cat([outputs[part].log_odds.cpu() for outputs in seen for part in ("forget", "like_forget")])
    low, high = torch.quantile(pooled, torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
    return torch.linspace(low, max(high, low + 1e-6), _BINS + 1, dtype=torch.float64)


def _shares(values: Tensor, edges: Tensor) -> list[float]:
    """The share of the values in each bin; those beyond the ends are in the first and the last."""
    bins = torch.bucketize(values, edges[1:-1])
    counts: list[float] = (torch.bincount(bins, minlength=len(edges) - 1).double() / len(values)).tolist()
    return counts
