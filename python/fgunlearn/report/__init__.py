"""Reports and figures of what was done, with jinja2 and matplotlib (the extra ``report``), imported when used."""

from fgunlearn.report.comparison import main_figure, write_report
from fgunlearn.report.drawing import check_matplotlib, save
from fgunlearn.report.spdgan import samples_figure, training_figure

__all__ = ["check_matplotlib", "main_figure", "samples_figure", "save", "training_figure", "write_report"]
