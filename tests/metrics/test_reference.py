from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fgunlearn import metrics
from fgunlearn.metrics import AverageGap, Outputs

SURE, UNSURE, WRONG = [9.0, 0.0], [0.1, 0.0], [0.0, 9.0]  # logits of a sample of label 0
RETAIN, FORGET, TEST, HELDOUT = range(4), range(4, 8), range(8, 12), range(12, 16)

shares = st.floats(0.0, 1.0)


class Lookup(nn.Module):
    """Answers for sample i with row i."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[x]


def batches(samples: range) -> list[tuple[Tensor, Tensor]]:
    return [(torch.tensor([i]), torch.tensor([0])) for i in samples]


def model(
    retain: list[list[float]], forget: list[list[float]], test: list[list[float]], heldout: list[list[float]]
) -> Lookup:
    return Lookup(*retain, *forget, *test, *heldout)


LOADERS = batches(FORGET), batches(RETAIN), batches(TEST)
RETRAINED = model([SURE] * 4, [SURE, UNSURE, UNSURE, UNSURE], [SURE, UNSURE, UNSURE, WRONG], [UNSURE] * 4)
OTHER = model([SURE, SURE, SURE, WRONG], [UNSURE, WRONG, UNSURE, WRONG], [UNSURE, UNSURE, UNSURE, UNSURE], [UNSURE] * 4)


def test_tug_of_war_by_hand() -> None:
    # Accuracies: retrained 1, 1, 3/4 on D_u, D_r, D_t; the other 1/2, 3/4, 1.
    assert metrics.tug_of_war(OTHER, RETRAINED, *LOADERS) == pytest.approx(0.5 * 0.75 * 0.75)


def test_the_retrained_model_itself_scores_1_and_a_gap_of_0() -> None:
    same = copy.deepcopy(RETRAINED)
    assert metrics.tug_of_war(same, RETRAINED, *LOADERS) == 1.0
    assert metrics.average_gap(same, RETRAINED, *LOADERS) == AverageGap(0.0, 0.0, 0.0, 0.0, 0.0)


@given(a=st.tuples(shares, shares, shares), b=st.tuples(shares, shares, shares))
def test_tug_of_war_is_symmetric_and_in_its_range(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = (dict(zip(("forget", "retain", "test"), values, strict=True)) for values in (a, b))
    found = metrics.tug_of_war_of(first, second)
    assert found == metrics.tug_of_war_of(second, first)
    assert 0.0 <= found <= min(1.0 - abs(x - y) for x, y in zip(a, b, strict=True)) + 1e-12


def test_average_gap_by_hand() -> None:
    # The confidence attack with members SURE and others UNSURE: 3 of 4 forget samples are none on the retrained model,
    # all on the other, whose retain samples are SURE or WRONG.
    found = metrics.average_gap(OTHER, RETRAINED, *LOADERS, batches(HELDOUT))
    assert found == AverageGap((50 + 25 + 25 + 25) / 4, forget=50.0, retain=25.0, test=25.0, mia=25.0)


def test_without_held_out_data_the_attack_is_fitted_on_the_test_data() -> None:
    # On SURE test samples it finds nothing, and its smallest best threshold lets nobody in that is less than sure.
    sure_of_test = model([SURE] * 4, [UNSURE] * 2 + [SURE] * 2, [WRONG] * 4, [SURE] * 4)
    fitted_on_test = metrics.average_gap(sure_of_test, RETRAINED, *LOADERS)
    assert fitted_on_test == metrics.average_gap(sure_of_test, RETRAINED, *LOADERS, batches(TEST))
    outputs = [Outputs.of(sure_of_test, batches(part)) for part in (FORGET, RETAIN, TEST)]
    assert metrics.non_member_share(*outputs) == 0.5
    assert fitted_on_test.mia == pytest.approx(25.0)


def test_gaps_from_shares_are_in_points() -> None:
    unlearned = {"forget": 0.9, "retain": 1.0, "test": 0.8, "mia": 0.1, "seconds": 9.0}
    retrained = {"forget": 0.95, "retain": 0.99, "test": 0.9, "mia": 0.14}
    found = metrics.average_gap_of(unlearned, retrained)
    assert (found.forget, found.retain, found.test, found.mia) == pytest.approx((5.0, 1.0, 10.0, 4.0))
    assert found.average == pytest.approx(5.0)


def test_nomus_by_hand() -> None:
    assert metrics.nomus_of(0.9, 0.5) == pytest.approx(0.95)
    assert metrics.nomus_of(0.9, 1.0) == pytest.approx(0.45)
    assert metrics.nomus_of(0.9, 0.0) == pytest.approx(0.45)
    assert metrics.nomus_of(0.8, 0.6, weight=0.25) == pytest.approx(0.25 * 0.8 + 0.75 * 0.8)


def test_nomus_of_models() -> None:
    def score(forget: list[list[float]], test: list[list[float]]) -> float:
        return metrics.nomus(model([SURE] * 4, forget, test, [UNSURE] * 4), *LOADERS, batches(HELDOUT))

    assert score([UNSURE] * 4, [UNSURE] * 4) == 1.0  # retrained: the attack calls nobody a member
    assert score([SURE] * 4, [UNSURE] * 4) == 0.5  # it knows them all
    assert score([SURE, SURE, UNSURE, UNSURE], [SURE, UNSURE, UNSURE, WRONG]) == pytest.approx(
        0.5 * 0.75 + 0.5 * (1 - 2 * (0.5 * (0.5 + 0.75) - 0.5))
    )
    # Forgotten too hard: no forget sample looks like a member where a quarter of the test samples do.
    assert score([WRONG] * 4, [SURE, UNSURE, UNSURE, UNSURE]) == pytest.approx(0.5 + 0.5 * (1 - 2 * 0.125))


def test_nomus_weighs_as_it_is_told_to() -> None:
    # Accuracy 3/4 on D_t; the attack is right about a half of D_u and 3/4 of D_t, so its part is 3/4 as well: not so
    # with a forget set that it knows, of which its part is 1 - 2 |7/8 - 1/2| = 1/4.
    known = model([SURE] * 4, [SURE] * 4, [SURE, UNSURE, UNSURE, WRONG], [UNSURE] * 4)
    for weight in (0.0, 0.25, 0.5, 1.0):
        found = metrics.nomus(known, *LOADERS, batches(HELDOUT), weight=weight)
        assert found == pytest.approx(weight * 0.75 + (1.0 - weight) * 0.25)
        assert found == metrics.nomus_of(0.75, 0.875, weight=weight)


def test_nomus_fits_its_attack_on_the_held_out_data_and_not_on_those_it_judges() -> None:
    # Fitted on the test data the threshold would lie at UNSURE, where it is right about all of D_u and D_t.
    half = model([SURE, SURE, UNSURE, UNSURE], [UNSURE] * 4, [WRONG] * 4, [UNSURE, UNSURE, UNSURE, WRONG])
    assert metrics.nomus(half, *LOADERS, batches(HELDOUT), weight=0.0) == 1.0  # by SURE: about none of D_u, all of D_t
    assert metrics.nomus(half, *LOADERS, batches(TEST), weight=0.0) == 0.0


def test_nomus_refuses_a_weight_before_any_pass() -> None:
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\], got 1\.5"):
        metrics.nomus(RETRAINED, [], [], [], [], weight=1.5)


def test_the_average_gaps_attack_is_on_the_confidence() -> None:
    # A sample that is surely wrong looks like a member to the entropy, and like none to the confidence.
    asked, sure, unsure = ([Outputs(torch.tensor([row]), torch.tensor([0]))] for row in (WRONG, SURE, UNSURE))
    assert metrics.non_member_share(*asked, *sure, *unsure) == 1.0


def test_where_the_attack_knows_nothing_one_sample_decides_on_the_share() -> None:
    def outputs(*sureness: float) -> Outputs:
        logits = torch.tensor(sureness)[:, None] * torch.tensor([1.0, 0.0])
        return Outputs(logits, torch.zeros(len(sureness), dtype=torch.long))

    alike = tuple(0.1 * i for i in range(1, 101))
    asked = outputs(*alike)
    assert metrics.non_member_share(asked, outputs(*alike, 11.0), outputs(*alike)) == 1.0
    assert metrics.non_member_share(asked, outputs(*alike), outputs(0.0, *alike)) == 0.0


def test_bad_shares_are_refused_by_name() -> None:
    some = {"forget": 0.5, "retain": 0.5, "test": 0.5}
    with pytest.raises(ValueError, match="retrained has no 'mia'"):
        metrics.average_gap_of({**some, "mia": 0.5}, some)
    with pytest.raises(ValueError, match=r"unlearned\['test'\] must be in \[0, 1\], got 97.0"):
        metrics.tug_of_war_of({**some, "test": 97.0}, some)
    with pytest.raises(ValueError, match=r"retrained\['forget'\] must be in \[0, 1\], got nan"):
        metrics.tug_of_war_of(some, {**some, "forget": math.nan})
    with pytest.raises(ValueError, match="attack_accuracy must be in"):
        metrics.nomus_of(0.5, 1.5)
    with pytest.raises(ValueError, match="weight must be in"):
        metrics.nomus_of(0.5, 0.5, weight=-1.0)


def test_an_empty_loader_is_named() -> None:
    with pytest.raises(ValueError, match="test_loader: the loader is empty"):
        metrics.tug_of_war(OTHER, RETRAINED, *LOADERS[:2], [])
    with pytest.raises(ValueError, match="heldout_loader: the loader is empty"):
        metrics.average_gap(OTHER, RETRAINED, *LOADERS, [])
