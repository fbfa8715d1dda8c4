from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fgunlearn.metrics import Outputs, ShadowTraining, half_memberships, log_odds_of, train_shadows
from fgunlearn.metrics.shadows import _order
from fgunlearn.seeding import derived_seed

FEW = ShadowTraining(epochs=4, batch=8, lr=0.05)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 3),
    )


def partly_frozen() -> nn.Module:
    made = mlp()
    made[1].requires_grad_(False)  # type: ignore[index]
    return made


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.flatten(1)).tanh()).tanh())  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Which vmap can't run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x[:, 0])[0][:, -1])  # type: ignore[no-any-return]


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(3, (40,), generator=generator)
    return torch.randn(40, 1, 6, 6, generator=generator) + y[:, None, None, None], y


@pytest.mark.parametrize("new_model", [mlp, convolutional, partly_frozen, Tied])
def test_all_at_once_gives_the_models_of_one_after_the_other(
    new_model: Callable[[], nn.Module], data: tuple[Tensor, Tensor]
) -> None:
    memberships = half_memberships(4, 40, seed=1)
    memberships[0, :5] = True  # so that not all train on as many
    together, apart = (train_shadows(new_model, *data, memberships, FEW, seed=3, batched=way) for way in (True, False))
    for a, b in zip(together, apart, strict=True):
        assert not a.training
        state = b.state_dict()
        assert a.state_dict().keys() == state.keys()
        for name, value in a.state_dict().items():
            torch.testing.assert_close(value, state[name], atol=2e-5, rtol=1e-4, msg=name)
    torch.testing.assert_close(log_odds_of(together, *data), log_odds_of(apart, *data), atol=1e-3, rtol=1e-3)


def test_the_steps_are_those_of_torchs_sgd_on_the_shadows_own_samples(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    memberships = torch.zeros(2, 40, dtype=torch.bool)
    memberships[0, :16], memberships[1, 16:32] = True, True
    training = ShadowTraining(epochs=3, batch=8, lr=0.1, momentum=0.9, weight_decay=0.01, warmup=0.5)
    found = train_shadows(mlp, x, y, memberships, training, seed=0, batched=True)[1]
    own = derived_seed(0, 1)  # shadow 1 of seed 0
    torch.manual_seed(own)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    order = _order(memberships[1], 8, own)
    for rate in (1 / 6, 3 / 6, 5 / 6, 5 / 6, 3 / 6, 1 / 6):  # of 2 * 3 steps, in their middles
        chosen = next(order)
        optimizer.param_groups[0]["lr"] = 0.1 * rate
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("batched", [True, False])
def test_samples_that_a_shadow_is_not_trained_on_do_not_reach_it(batched: bool, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    memberships = half_memberships(2, 40)
    first = train_shadows(convolutional, x, y, memberships, FEW, batched=batched)
    changed = x.clone()
    changed[~memberships[0]] += 100.0
    other = train_shadows(convolutional, changed, y, memberships, FEW, batched=batched)
    for (name, a), b in zip(first[0].state_dict().items(), other[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert not first[1].state_dict()["0.weight"].allclose(other[1].state_dict()["0.weight"])


def test_an_order_gives_every_member_once_in_a_pass() -> None:
    members = torch.rand(30) < 0.5
    count = int(members.sum())
    order = _order(members, 4, seed=2)
    drawn = torch.cat([next(order) for _ in range(count)])  # 4 passes
    for one_pass in drawn.split(count):
        assert one_pass.sort().values.equal(members.nonzero()[:, 0])
    assert not drawn[:count].equal(drawn[count : 2 * count])


def test_shadows_learn_what_they_see_and_are_surer_of_it() -> None:
    x, y = torch.randn(60, 1, 6, 6), torch.randint(3, (60,))  # labels that can only be memorised
    memberships = half_memberships(6, 60)
    models = train_shadows(mlp, x, y, memberships, ShadowTraining(epochs=60, batch=10, lr=0.05))
    found = log_odds_of(models, x, y)
    assert found.shape == (6, 60)
    assert float((found[memberships] > 0).double().mean()) > 0.95
    assert float((found[~memberships] > 0).double().mean()) < 0.6


def test_one_seed_gives_one_set_of_models_and_leaves_torchs_own_alone(data: tuple[Tensor, Tensor]) -> None:
    memberships = half_memberships(2, 40)

    class Noise(nn.Module):
        """Draws in eval mode as well."""

        def forward(self, x: Tensor) -> Tensor:
            return x + 1e-3 * torch.rand(x.shape)

    def dropping() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3))

    before = torch.get_rng_state()
    train_shadows(lambda: nn.Sequential(dropping(), Noise()), *data, memberships, FEW)
    assert torch.get_rng_state().equal(before)

    for batched in (True, False):
        before = torch.get_rng_state()
        first = log_odds_of(train_shadows(dropping, *data, memberships, FEW, batched=batched), *data)
        assert torch.get_rng_state().equal(before)
        torch.rand(1)
        assert log_odds_of(train_shadows(dropping, *data, memberships, FEW, batched=batched), *data).equal(first)
        other = train_shadows(dropping, *data, memberships, FEW, seed=1, batched=batched)
        assert not log_odds_of(other, *data).equal(first)
    assert not first[0].allclose(first[1])


def test_no_two_seeds_give_a_shadow_in_common_and_none_is_a_training_from_a_plain_seed(
    data: tuple[Tensor, Tensor],
) -> None:
    everybody = torch.ones(3, 40, dtype=torch.bool)
    # 2**12 seeds apart the seeds of shadows once met again, as torch's CPU generator looks at 32 bits of a seed.
    seeds = (0, 1, 2**12, 2**32, -1, 2**63 - 1)
    made = [m for seed in seeds for m in train_shadows(mlp, *data, everybody, FEW, seed=seed)]
    weights = torch.stack([model.state_dict()["1.weight"] for model in made]).flatten(1)
    assert len(weights.unique(dim=0)) == len(made)
    drawn: list[Tensor] = []

    def watched() -> nn.Module:
        model = mlp()
        drawn.append(model[1].weight.detach().clone())  # type: ignore[index,union-attr,operator]
        return model

    train_shadows(watched, *data, everybody, FEW)
    for seed in range(3):
        torch.manual_seed(seed)  # as a user makes a source model
        assert not any(mlp()[1].weight.equal(weight) for weight in drawn)  # type: ignore[index]


def test_models_that_vmap_cannot_run_are_trained_one_after_the_other(data: tuple[Tensor, Tensor]) -> None:
    memberships = half_memberships(2, 40)
    found = train_shadows(Recurrent, *data, memberships, FEW)
    assert log_odds_of(found, *data).equal(
        log_odds_of(train_shadows(Recurrent, *data, memberships, FEW, batched=False), *data)
    )
    with pytest.raises(RuntimeError):
        train_shadows(Recurrent, *data, memberships, FEW, batched=True)


def test_trying_vmap_out_moves_no_statistics(data: tuple[Tensor, Tensor]) -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3))

    memberships = half_memberships(2, 40)
    tried, told = (train_shadows(normed, *data, memberships, FEW, batched=way) for way in (None, True))
    assert int(tried[0].state_dict()["1.num_batches_tracked"]) == 10  # 4 passes over 20 samples, 8 at a time
    for a, b in zip(tried, told, strict=True):
        assert all(value.equal(b.state_dict()[name]) for name, value in a.state_dict().items())


def test_every_sample_is_in_half_of_the_shadows() -> None:
    found = half_memberships(8, 500, seed=1)
    assert found.shape == (8, 500)
    assert found.sum(0).eq(4).all()
    assert float(found.double().mean(1).sub(0.5).abs().max()) < 0.1
    assert not found.equal(half_memberships(8, 500, seed=2))
    assert not found.equal(half_memberships(8, 500, seed=1 + 2**32))


def test_log_odds_are_those_of_each_model(data: tuple[Tensor, Tensor]) -> None:
    models = [mlp(), mlp()]
    found = log_odds_of(models, *data)
    torch.testing.assert_close(found[1], Outputs.of(models[1], [data]).log_odds)


def test_bad_arguments_are_refused(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    some = half_memberships(2, 40)
    with pytest.raises(TypeError, match=r"memberships must be bool, got torch\.float32"):
        train_shadows(mlp, x, y, some.float())
    with pytest.raises(ValueError, match=r"memberships must be of shape \(shadows, 40\), got \(2, 39\)"):
        train_shadows(mlp, x, y, some[:, 1:])
    with pytest.raises(ValueError, match=r"y must be of shape \(40,\), got \(39,\)"):
        train_shadows(mlp, x, y[1:], some)
    with pytest.raises(ValueError, match="gives shadow 1 no sample"):
        train_shadows(mlp, x, y, torch.stack([some[0], torch.zeros(40, dtype=torch.bool)]))
    with pytest.raises(ValueError, match="parameters that require a gradient"):
        train_shadows(nn.Flatten, x, y, some)
    with pytest.raises(ValueError, match="shadow model 0 has diverged"):
        train_shadows(mlp, 1e4 * x, y, some, ShadowTraining(lr=1e6, epochs=20))
    for batched in (True, False):
        with pytest.raises(ValueError, match="model must return logits"):
            train_shadows(lambda: nn.Conv2d(1, 3, 3), x, y, some, batched=batched)
    with pytest.raises(ValueError, match="shadows must be even, got 3"):
        half_memberships(3, 10)
    with pytest.raises(ValueError, match="shadows must be >= 2, got 0"):
        half_memberships(0, 10)
    with pytest.raises(TypeError, match=r"shadows must be an int, got 4\.0"):
        half_memberships(4.0, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must fit in 64 bits, got 9223372036854775808"):
        half_memberships(2, 10, seed=2**63)
    with pytest.raises(TypeError, match="seed must be an int, got None"):
        train_shadows(mlp, x, y, some, seed=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples must be >= 1, got 0"):
        half_memberships(2, 0)
    with pytest.raises(ValueError, match="one model or more"):
        log_odds_of([], x, y)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("epochs", 0, "epochs must be >= 1, got 0"),
        ("batch", 0, "batch must be >= 1, got 0"),
        ("lr", float("inf"), "lr must be > 0, got inf"),
        ("lr", float("nan"), "lr must be > 0, got nan"),
        ("momentum", 1.0, r"momentum must be in \[0, 1\)"),
        ("warmup", 1.0, r"warmup must be in \[0, 1\)"),
        ("weight_decay", -1.0, "weight_decay must be >= 0"),
    ],
)
def test_a_training_with_a_number_out_of_range_is_refused(argument: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShadowTraining(**{argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("argument", "kind"), [("epochs", "an int"), ("batch", "an int"), ("lr", "a number")])
def test_a_training_with_something_else_than_a_number_is_refused(argument: str, kind: str) -> None:
    for value in ("1", None, True, *([2.5] if kind == "an int" else [])):
        with pytest.raises(TypeError, match=f"{argument} must be {kind}, got {value!r}"):
            ShadowTraining(**{argument: value})  # type: ignore[arg-type]


def test_bad_data_and_models_are_refused_before_any_step(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    some = half_memberships(2, 40)
    made: list[nn.Module] = []

    def watched() -> nn.Module:
        made.append(mlp())
        return made[-1]

    def refused(error: type[Exception], match: str, *given: object, **options: object) -> None:
        made.clear()
        with pytest.raises(error, match=match):
            train_shadows(*given, **options)  # type: ignore[arg-type]
        for shadow, model in enumerate(made):  # made, but not trained
            torch.manual_seed(derived_seed(0, shadow))
            assert all(p.equal(q) for p, q in zip(model.parameters(), mlp().parameters(), strict=True))

    refused(TypeError, r"x must be a tensor, got list", watched, x.tolist(), y, some)
    refused(TypeError, r"y must be a tensor, got list", watched, x, y.tolist(), some)
    refused(TypeError, r"memberships must be a tensor, got list", watched, x, y, some.tolist())
    refused(ValueError, r"x must be of shape .* got \(0, 1, 6, 6\)", watched, x[:0], y[:0], some[:, :0])
    refused(ValueError, r"y must be integers, got torch\.float32", watched, x, y.float(), some)
    refused(ValueError, r"y must be in \[0, 2\], got 1 to 3", watched, x, y + 1, some)
    refused(ValueError, r"y must be in \[0, 2\], got -1 to 1", watched, x, y - 1, some)
    refused(TypeError, r"training must be a ShadowTraining, got 30", watched, x, y, some, 30)
    refused(ValueError, r"batched must be one of None, True, False, got 'no'", watched, x, y, some, batched="no")
    refused(TypeError, "new_model must be a function .* of type Sequential", mlp(), x, y, some)
    refused(TypeError, "new_model must return a module, got NoneType", lambda: None, x, y, some)


def test_labels_that_no_shadow_is_trained_on_may_be_anything(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    some = torch.ones(2, 40, dtype=torch.bool)
    some[:, 3] = False
    strange = y.clone()
    strange[3] = 99
    assert len(train_shadows(mlp, x, strange, some, FEW)) == 2


@pytest.mark.parametrize("batched", [True, False, None])
def test_shadows_that_would_be_trained_on_each_others_samples_are_refused(
    batched: bool | None, data: tuple[Tensor, Tensor]
) -> None:
    some, one = half_memberships(2, 40), mlp()
    before = [p.detach().clone() for p in one.parameters()]
    with pytest.raises(ValueError, match="another model at each call: model 1 shares what is trained"):
        train_shadows(lambda: one, *data, some, FEW, batched=batched)
    first = mlp()
    made = iter((first, mlp(), first))
    with pytest.raises(ValueError, match="another model at each call: model 2 shares what is trained"):
        train_shadows(lambda: next(made), *data, half_memberships(4, 40), FEW, batched=batched)
    head = nn.Linear(36, 3)
    with pytest.raises(ValueError, match="another model at each call: model 1 shares what is trained"):
        train_shadows(lambda: nn.Sequential(nn.Flatten(), head), *data, some, FEW, batched=batched)
    assert all(p.equal(q) for p, q in zip(one.parameters(), before, strict=True))
    # A frozen part is nobody's.
    frozen = nn.Linear(36, 5).requires_grad_(False)
    assert train_shadows(lambda: nn.Sequential(nn.Flatten(), frozen, nn.Linear(5, 3)), *data, some, FEW)
    widths = iter((5, 6))
    with pytest.raises(ValueError, match="one architecture: model 1 is not like model 0"):
        train_shadows(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, next(widths))), *data, some, batched=batched)


def test_a_shadow_that_diverges_is_told_before_the_next_is_trained(data: tuple[Tensor, Tensor]) -> None:
    made: list[nn.Module] = []

    def watched() -> nn.Module:
        made.append(mlp())
        return made[-1]

    x, y = data
    before = half_memberships(2, 40)
    with pytest.raises(ValueError, match="shadow model 0 has diverged"):
        train_shadows(watched, 1e4 * x, y, before, ShadowTraining(lr=1e6, epochs=20), batched=False)
    assert all(bool(p.isfinite().all()) for p in made[1].parameters())
