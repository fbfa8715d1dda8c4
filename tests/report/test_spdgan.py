"""What the figures of an SPD-GAN say, and that they are files to rely on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgunlearn.report import samples_figure, save, training_figure
from fgunlearn.spdgan import History

matplotlib = pytest.importorskip("matplotlib")

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES = {
    "grey": (1, 8, 9),
    "two": (2, 8, 8),
    "colour": (3, 9, 8),
    "four": (4, 8, 8),
    "series": (2, 20),
    "vector": (5,),
}


def history(steps: int = 50, stopped: bool = True) -> History:
    rising = tuple(0.001 * step for step in range(steps))
    looks = [step for step in (25, 50) if step <= steps]
    return History(
        shift=[*rising],
        magnitude=[*rising],
        generator_loss=[-value for value in rising],
        critic_loss=[*rising],
        heldout_step=looks,
        heldout_shift=[0.01] * len(looks),
        stopped=stopped,
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("samples", [1, 3])
def test_samples_are_shown_before_and_after_with_the_amplification_stated(
    kind: str, samples: int, tmp_path: Path
) -> None:
    before = torch.rand(samples, *SHAPES[kind])
    before.flatten()[:2] = torch.tensor([0.0, 1.0])
    figure = samples_figure(before, (before + 0.02).clamp(0, 1))
    found = texts(figure)
    for label in ("as it is", "perturbed", "difference\namplified 20x"):
        assert found.count(label) == 1
    assert len(figure.axes) >= 3 * samples
    save(figure, tmp_path / "figure.png")


def test_the_difference_s_colours_are_centred_on_0_and_in_units_of_the_data() -> None:
    before = torch.zeros(2, 1, 8, 8)
    before[0] = 4.0
    after = before.clone()
    after[0, 0, 3, 5] -= 0.5
    figure = samples_figure(before, after)
    shown, _, difference = (figure.axes[2 * row].images[0] for row in range(3))
    assert shown.get_clim() == (0.0, 4.0)
    assert difference.get_clim() == (-1.0, 1.0)  # amplified twice: a span of 2, where that of the samples is 4
    assert "amplified 2x" in " ".join(texts(figure))
    assert difference.get_array()[3, 5] == -0.5
    assert difference.get_array()[0, 0] == 0.0
    assert {"value", "change", "-1", "0", "1"} <= set(texts(figure))


@pytest.mark.parametrize(("amplify", "ends"), [(4.0, "neither"), (8.0, "both")])
def test_a_colour_bar_says_where_the_amplification_clips(amplify: float, ends: str) -> None:
    before = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    figure = samples_figure(before, (before + 0.1).clamp(0, 1), amplify=amplify)
    assert f"amplified {amplify:g}x" in " ".join(texts(figure))
    assert figure.axes[2].images[0].colorbar.extend == ends


def test_of_several_channels_the_one_that_changed_most_is_shown() -> None:
    before = torch.full((1, 3, 8, 8), 0.5)
    after = before.clone()
    after[0, 0, 2, 2] += 0.1
    after[0, 1, 2, 2] -= 0.3
    difference = samples_figure(before, after).axes[2].images[0].get_array()
    assert difference[2, 2] == pytest.approx(-0.3)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (-2.0, 3.0)])
def test_colours_in_0_to_1_are_shown_as_they_are_and_others_scaled(low: float, high: float) -> None:
    before = low + (high - low) * torch.rand(2, 3, 8, 8)
    before[0, :, 0, 0], before[0, :, 0, 1] = low, high
    image = samples_figure(before, before).axes[0].images[0].get_array()
    assert tuple(image.shape) == (8, 8, 3)
    assert image[0, 0].tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    assert image[0, 1].tolist() == pytest.approx([0.5 if high == 0.5 else 1.0] * 3)


@pytest.mark.parametrize("kind", ["series", "vector"])
def test_axes_of_series_and_vectors_span_what_the_amplification_says(kind: str) -> None:
    before = torch.rand(2, *SHAPES[kind])
    figure = samples_figure(before, before + 0.01, amplify=20)
    spans = [axes.get_ylim()[1] - axes.get_ylim()[0] for axes in figure.axes[::2]]
    assert spans[0] == pytest.approx(spans[1])
    assert spans[0] / spans[2] == pytest.approx(20.0)
    low, high = figure.axes[4].get_ylim()
    assert low == pytest.approx(-high)
    assert [axes.get_xlabel() for axes in figure.axes[4:]] == [{"series": "position", "vector": "feature"}[kind]] * 2
    drawn = (
        figure.axes[4].lines[0].get_ydata() if kind == "series" else [b.get_height() for b in figure.axes[4].patches]
    )
    assert list(drawn) == pytest.approx([0.01] * SHAPES[kind][-1], abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(change=st.floats(1e-6, 2.0))
def test_the_amplification_is_a_round_number_that_clips_nothing(change: float) -> None:
    before = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    after = torch.tensor([[change, 1.0]], dtype=torch.float64)
    label = next(text for text in texts(samples_figure(before, after)) if "amplified" in text)
    factor = float(label.removeprefix("difference\namplified ").removesuffix("x"))
    assert f"{factor:e}"[0] in "125"
    share = change * factor / (0.5 * max(1.0, change))  # of what the difference's scale reaches
    assert factor == 1.0 or 0.4 * (1 - 1e-6) <= share <= 1.0 + 1e-6


@pytest.mark.parametrize("kind", SHAPES)
def test_nothing_changed_and_constant_samples_are_no_error(kind: str, tmp_path: Path) -> None:
    before = torch.zeros(1, *SHAPES[kind])
    save(samples_figure(before, before), tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("before", "after", "options", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(2, 6), {}, r"one shape.*\(2, 5\) and \(2, 6\)"),
        (torch.zeros(5), torch.zeros(5), {}, r"got \(5,\)"),
        (torch.zeros(0, 5), torch.zeros(0, 5), {}, "1 to 12 samples, got 0"),
        (torch.zeros(13, 5), torch.zeros(13, 5), {}, "1 to 12 samples, got 13"),
        (torch.zeros(2, 0), torch.zeros(2, 0), {}, r"got shape \(2, 0\)"),
        (torch.zeros(1, 5), torch.full((1, 5), torch.nan), {}, "after holds NaN"),
        (torch.zeros(1, 5), torch.zeros(1, 5), {"amplify": 0.0}, "amplify must be finite and > 0, got 0.0"),
        (torch.zeros(1, 5), torch.zeros(1, 5), {"amplify": float("inf")}, "amplify must be finite and > 0, got inf"),
    ],
)
def test_samples_that_make_no_figure_are_refused(
    before: torch.Tensor, after: torch.Tensor, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        samples_figure(before, after, **options)


def test_training_is_shown_on_labelled_axes_with_its_end() -> None:
    figure = training_figure(history())
    shift, magnitude, losses = figure.axes
    assert "squared MMD" in shift.get_ylabel()
    assert "share of the data's range" in magnitude.get_ylabel()
    assert (losses.get_ylabel(), losses.get_xlabel()) == ("loss", "training step")
    assert [line.get_label() for line in shift.lines[:2]] == ["a batch, per step", "held-out data"]
    assert list(shift.lines[0].get_xdata()) == list(range(1, 51))
    assert list(shift.lines[1].get_xdata()) == [25, 50]
    assert magnitude.get_ylim()[0] == 0.0
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["generator", "critic"]
    assert "levelled off: stopped at step 50" in texts(figure)
    for panel in figure.axes:
        assert list(panel.lines[-1].get_xdata()) == [50, 50]
        assert panel.get_xlim() == (0, 51.5)


def test_training_that_did_not_stop_says_so() -> None:
    assert "not levelled off: ended at step 7" in texts(training_figure(history(7, stopped=False)))


def test_training_without_a_critic_has_one_loss() -> None:
    without = history()
    without.critic_loss.clear()
    legend = training_figure(without).axes[2].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["generator"]


def test_a_single_step_is_seen_and_none_is_refused(tmp_path: Path) -> None:
    figure = training_figure(history(1))
    assert figure.axes[0].lines[0].get_marker() == "."
    save(figure, tmp_path / "figure.png")
    with pytest.raises(ValueError, match="history must hold a step"):
        training_figure(History())


@pytest.mark.parametrize("suffix", [".svg", ".SVG", ".png"])
def test_the_same_figure_is_the_same_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for name, when in (("a", "0"), ("b", "1000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", when)
        path = tmp_path / f"{name}{suffix}"
        save(training_figure(history()), path)
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert files[0].startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_the_user_s_own_style_has_no_say_and_is_left_as_it_was(tmp_path: Path) -> None:
    save(training_figure(history()), tmp_path / "a.svg")
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30.0, "svg.hashsalt": "own"}):
        save(training_figure(history()), tmp_path / "b.svg")
        assert matplotlib.rcParams["font.size"] == 30.0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    save(samples_figure(torch.rand(2, 5), torch.rand(2, 5)), tmp_path / "figure.svg")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_another_format_is_refused_and_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    figure = training_figure(history())
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg, got 'figure\.pdf'"):
        save(figure, "figure.pdf")
    with pytest.raises(OSError, match="nowhere"):
        save(figure, tmp_path / "nowhere" / "figure.png")
    path = tmp_path / "figure.png"
    path.write_text("the old one")
    figure.axes[0].set_title("$\\nonsense$")  # matplotlib finds that out while it draws
    with pytest.raises(ValueError, match="nonsense"):
        save(figure, path)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "draw", [lambda: training_figure(history()), lambda: samples_figure(torch.rand(1, 5), torch.rand(1, 5))]
)
def test_without_matplotlib_the_error_says_what_to_install(
    draw: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'fgunlearn\[report\]'"):
        draw()
