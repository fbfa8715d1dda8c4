"""Figures of what was done, with matplotlib (the extra ``report``), which is imported when one is drawn."""

from fgunlearn.report.drawing import check_matplotlib, save
from fgunlearn.report.spdgan import samples_figure, training_figure

__all__ = ["check_matplotlib", "samples_figure", "save", "training_figure"]
