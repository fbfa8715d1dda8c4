from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from channel_members import members
from fgunlearn.experiment.resnet import ResNet
from fgunlearn.parameters import trainable
from fgunlearn.selection.channels import Channels, channels_of, rows_of


def named_members(model: nn.Module) -> list[list[str]]:
    """The coordinates of every channel as "parameter[index]", in order."""
    labels = []
    for name, parameter in trainable(model).items():
        places = itertools.product(*map(range, parameter.shape))
        labels += [f"{name}[{','.join(map(str, place))}]" for place in places]
    channels = channels_of(model)
    check(channels, len(labels))
    return [[labels[at] for at in found] for found in members(channels)]


def check(channels: Channels, n: int) -> None:
    """A partition of n coordinates, numbered by first coordinates."""
    found = members(channels)
    assert sorted(at for channel in found for at in channel) == list(range(n))
    assert [len(channel) for channel in found] == channels.sizes.tolist()
    assert [min(channel) for channel in found] == channels.first.tolist()
    assert channels.first.tolist() == sorted(channels.first.tolist())
    assert all(len(set(cells.ids.tolist())) == len(cells.ids) for cells in channels.cells)


def test_lists_are_divided_by_rows_of_the_first_dimension() -> None:
    channels = rows_of([(2, 1, 2), (), (0, 3), (3, 0), (2,)])
    check(channels, 7)
    assert members(channels) == [[0, 1], [2, 3], [4], [5], [6]]
    check(rows_of([]), 0)


def test_a_neuron_is_its_row_and_its_bias() -> None:
    assert named_members(nn.Linear(2, 2)) == [
        ["weight[0,0]", "weight[0,1]", "bias[0]"],
        ["weight[1,0]", "weight[1,1]", "bias[1]"],
    ]
    assert named_members(nn.Bilinear(1, 2, 1)) == [["weight[0,0,0]", "weight[0,0,1]", "bias[0]"]]


def test_an_output_channel_of_a_convolution_takes_the_norm_that_follows_with_it() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2))
    expected = [
        [f"0.weight[{c},0,0,0]", f"0.weight[{c},1,0,0]", f"0.bias[{c}]", f"1.weight[{c}]", f"1.bias[{c}]"]
        for c in range(2)
    ]
    # Another norm's channel is its scale and its shift.
    assert named_members(model) == [*expected, ["3.weight[0]", "3.bias[0]"], ["3.weight[1]", "3.bias[1]"]]


@pytest.mark.parametrize("groups", [1, 2])
def test_an_output_channel_of_a_transposed_convolution_is_in_dimension_one(groups: int) -> None:
    layer = nn.ConvTranspose1d(4, 4, 3, groups=groups)
    outputs, inputs = 4 // groups, 4 // groups
    expected = [
        [
            *(
                f"weight[{i},{channel % outputs},{k}]"
                for i in range(channel // outputs * inputs, (channel // outputs + 1) * inputs)
                for k in range(3)
            ),
            f"bias[{channel}]",
        ]
        for channel in range(4)
    ]
    assert sorted(named_members(layer)) == sorted(expected)
    # And it is what moves that output, and only that.
    x = torch.randn(1, 4, 5)
    before = layer(x)
    channels = channels_of(layer)
    with torch.no_grad():
        for cells, parameter in zip(channels.cells, layer.parameters(), strict=True):
            blocks, turns, width, run = cells.view
            owner = cells.ids.view(blocks, 1, width, 1).expand(blocks, turns, width, run).reshape(parameter.shape)
            parameter[owner == int(channels_of(layer).cells[1].ids[2])] += 1.0
    assert (layer(x) != before).any(2).flatten().tolist() == [False, False, True, False]


@pytest.mark.parametrize("kdim", [None, 3])
def test_a_head_is_its_projections_and_its_columns_of_the_output(kdim: int | None) -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=kdim, vdim=kdim, add_bias_kv=True)
    found = [set(channel) for channel in named_members(attention)]
    width = kdim or 4
    for head in range(2):
        rows = [2 * head, 2 * head + 1]
        expected = {f"out_proj.weight[{o},{r}]" for o in range(4) for r in rows}
        expected |= {f"in_proj_bias[{4 * part + r}]" for part in range(3) for r in rows}
        expected |= {f"bias_{part}[0,0,{r}]" for part in "kv" for r in rows}
        for part, name in enumerate("qkv"):
            inputs = 4 if name == "q" else width
            expected |= {
                f"in_proj_weight[{4 * part + r},{i}]" if kdim is None else f"{name}_proj_weight[{r},{i}]"
                for r in rows
                for i in range(inputs)
            }
        assert expected in found
    assert [{f"out_proj.bias[{o}]"} in found for o in range(4)] == [True] * 4
    assert len(found) == 6


def test_silencing_a_head_silences_nothing_else() -> None:
    attention = nn.MultiheadAttention(6, 3, batch_first=True).eval()
    cells = channels_of(attention).cells
    x = torch.randn(2, 5, 6)
    _, before = attention(x, x, x, average_attn_weights=False)
    with torch.no_grad():
        blocks, turns, width, run = cells[0].view
        owner = cells[0].ids.view(blocks, 1, width, 1).expand(blocks, turns, width, run).reshape(18, 6)
        attention.in_proj_weight[owner == cells[0].ids[1]] = 0.0
    _, after = attention(x, x, x, average_attn_weights=False)
    assert after[:, [0, 2]].equal(before[:, [0, 2]])
    assert not after[:, 1].equal(before[:, 1])


class Block(nn.Module):
    """Its order is known to its forward only."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def together(model: nn.Module, one: str, other: str) -> bool:
    """Whether coordinate 0 of two parameters is in one channel."""
    names = list(trainable(model))
    cells = channels_of(model).cells
    return bool(cells[names.index(one)].ids[0] == cells[names.index(other)].ids[0])


def conv(width: int = 4) -> nn.Conv2d:
    return nn.Conv2d(4, width, 1)


def test_a_norm_follows_a_convolution_by_registration_where_that_can_mean_one_thing_only() -> None:
    norm = nn.BatchNorm2d
    usual = Block(conv1=conv(), norm1=norm(4), conv2=conv(), norm2=nn.GroupNorm(2, 4), relu=nn.ReLU())
    assert together(usual, "conv1.weight", "norm1.bias")
    assert together(usual, "conv2.weight", "norm2.weight")
    before = Block(norm1=norm(4), conv1=conv(), norm2=norm(4), conv2=conv())  # pre-activation
    assert together(before, "conv1.weight", "norm2.weight")
    assert together(before, "norm1.weight", "norm1.bias")
    assert not together(before, "norm1.weight", "conv1.weight")
    crossed = Block(conv1=conv(), conv2=conv(), norm1=norm(4), norm2=norm(4))
    assert not together(crossed, "conv2.weight", "norm1.weight")
    either = Block(conv1=conv(), norm1=norm(4), norm2=norm(4))
    assert not together(either, "conv1.weight", "norm1.weight")
    assert not together(Block(conv1=conv(8), norm1=norm(4)), "conv1.weight", "norm1.weight")
    # nn.TransformerEncoderLayer registers linear2 before norm1, which follows the attention.
    assert not together(Block(linear=nn.Linear(4, 4), norm=nn.LayerNorm(4)), "linear.weight", "norm.weight")
    assert not together(nn.TransformerEncoderLayer(4, 2, 4), "linear2.weight", "norm1.weight")


def test_in_a_sequence_a_norm_follows_what_is_before_it() -> None:
    assert together(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), "0.weight", "1.weight")
    assert together(nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4)), "0.bias", "1.weight")
    assert together(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "0.weight", "1.bias")
    # A layer norm is not per channel of a convolution, even of the same width.
    assert not together(nn.Sequential(conv(), nn.LayerNorm(4)), "0.weight", "1.weight")
    relu = nn.ReLU()  # in two places
    assert not together(
        nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.BatchNorm1d(4)), "2.weight", "4.weight"
    )

    class Backwards(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in reversed(self):
                x = layer(x)
            return x

    assert not together(Backwards(nn.Linear(4, 4), nn.BatchNorm1d(4)), "0.weight", "1.weight")


def test_frozen_parameters_have_no_part() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    assert named_members(model) == [["1.weight[0]", "1.bias[0]"], ["1.weight[1]", "1.bias[1]"], ["2.bias[0]"]]


def test_tied_parameters_are_in_one_channel() -> None:
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3), nn.Linear(2, 3))
    model[1].weight = model[0].weight
    model[2].weight = model[0].weight
    assert named_members(model) == [
        [f"0.weight[{r},0]", f"0.weight[{r},1]", f"1.bias[{r}]", f"2.bias[{r}]"] for r in range(3)
    ]


def test_a_weight_that_torch_computes_is_not_asked_for() -> None:
    model = parametrizations.spectral_norm(nn.Linear(3, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert sorted(len(channel) for channel in named_members(model)) == [1, 1, 3, 3]
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    pruned = prune.l1_unstructured(nn.Linear(3, 2), "weight", 0.5)
    assert sorted(len(channel) for channel in named_members(pruned)) == [1, 1, 3, 3]


def test_what_no_rule_knows_is_divided_by_rows() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.scale = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(()))

    assert named_members(Own()) == [["table[0,0]", "table[0,1]"], ["table[1,0]", "table[1,1]"], ["scale[]"]]
    lstm = nn.LSTM(2, 1)
    assert len(named_members(lstm)) == sum(len(p) for p in lstm.parameters())


def test_the_demos_network_joins_every_norm_to_its_convolution() -> None:
    model = ResNet(widths=(8, 8))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    channels = channels_of(model)
    check(channels, sum(p.numel() for p in model.parameters()))
    assert len(channels.sizes) == sum(c.out_channels for c in convolutions) + 10
