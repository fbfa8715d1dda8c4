"""The report of a comparison: ``report.html``, and its main plot as a figure of its own."""

from fgunlearn.report.comparison.figure import main_figure
from fgunlearn.report.comparison.page import check_jinja2, rendered, write_report

__all__ = ["check_jinja2", "main_figure", "rendered", "write_report"]
