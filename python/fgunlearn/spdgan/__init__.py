"""SPD-GAN: a generator that shifts data slightly off the distribution a model was trained on."""

from fgunlearn.spdgan.fit import History
from fgunlearn.spdgan.gan import SPDGAN
from fgunlearn.spdgan.settings import Fitting

__all__ = ["SPDGAN", "Fitting", "History"]
