"""What will fit into memory and how long it takes at the least, before anything is run: arithmetic, no measurement."""

from fgunlearn.planning.memory import Memory
from fgunlearn.planning.model import ModelSize
from fgunlearn.planning.plan import Plan, Way, made
from fgunlearn.planning.rates import DEVICES, Rates
from fgunlearn.planning.setting import Setting

__all__ = ["DEVICES", "Memory", "ModelSize", "Plan", "Rates", "Setting", "Way", "made"]
