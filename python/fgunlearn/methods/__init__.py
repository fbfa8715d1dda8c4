"""Ways to unlearn, all called alike: this package's own, and those that it is compared with.

``fg.methods.<name>(model, forget_loader, retain_loader, *, ..., loss_fn=None, heldout_loader=None, seed=0,
progress=False, checkpoint=None)`` changes the model in place and returns a :class:`fgunlearn.Result`: phases and their
seconds, losses per epoch, what was selected and what has changed. Each method is written from its paper's definition;
its docstring names the paper, and what is different here.

What holds for all of them:

- ``forget_loader``, D_u, and ``retain_loader``, D_r, are iterables of batches that can be read more than once. A loader
  that a method does not read is not looked at, so it may be empty.
- ``loss_fn(model, batch) -> scalar``, the mean over the batch; cross entropy on ``(x, y)`` batches by default. With
  one, batches have any form (to score coordinates by, one that tells its size: :func:`fgunlearn.batches.known_size`),
  but for methods that need labels or logits by definition: random_label, salun, scrub.
- ``heldout_loader``, data never trained on, is for topk, randomk and random_topk, where their repair has a forget term:
  it tells which recipe fits, and how far to go. The others do not read it.
- With a ``checkpoint``, a :class:`fgunlearn.Checkpoint`, a call that was killed goes on when it is made again: bit for
  bit, and what comes before the first step is done again. ssd and fisher_forget take no steps, and write none.
- A batch without samples takes no step. A pass is as many batches as the loader's length says, or if it has none as
  were counted; where fewer come, a warning says so.
- The same seed and the same batches give the same model, as far as the model itself draws nothing (dropout).
- After an error or Ctrl-C the model is as it was. Every module comes back in the mode it had, and no trainable
  parameter keeps a gradient.
- Only parameters that require grad change, and buffers (batch-norm statistics), as training changes them.
- Models sharded over processes (DTensors, as FSDP2 makes them) are for topk, randomk and random_topk, which do what
  :func:`fgunlearn.unlearn` does, and refuse there what it refuses. The others refuse them.
- Bad arguments raise a TypeError or ValueError that names argument and value, before anything changes.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Callable

from fgunlearn.methods.finetune import finetune
from fgunlearn.methods.fisher_forget import fisher_forget
from fgunlearn.methods.gradient_ascent import gradient_ascent
from fgunlearn.methods.l1_sparse import l1_sparse
from fgunlearn.methods.neggrad_plus import neggrad_plus
from fgunlearn.methods.random_label import random_label
from fgunlearn.methods.random_topk import random_topk
from fgunlearn.methods.randomk import randomk
from fgunlearn.methods.retrain import retrain
from fgunlearn.methods.salun import salun
from fgunlearn.methods.scrub import scrub
from fgunlearn.methods.ssd import ssd
from fgunlearn.methods.topk import topk
from fgunlearn.unlearning.result import Result

Method = Callable[..., Result]

_METHODS: dict[str, Method] = {
    "retrain": retrain,
    "finetune": finetune,
    "gradient_ascent": gradient_ascent,
    "neggrad_plus": neggrad_plus,
    "random_label": random_label,
    "salun": salun,
    "ssd": ssd,
    "scrub": scrub,
    "l1_sparse": l1_sparse,
    "fisher_forget": fisher_forget,
    "topk": topk,
    "randomk": randomk,
    "random_topk": random_topk,
}


def list() -> builtins.list[str]:
    """The names of all methods: retraining first, this package's own last."""
    return [*_METHODS]


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        TypeError: not a string.
        ValueError: no such method; the nearest name is suggested.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if name not in _METHODS:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), _METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_METHODS)}"
        raise ValueError(f"no method is called {name!r}: {hint}")
    return _METHODS[name]


__all__ = [
    "Method",
    "finetune",
    "fisher_forget",
    "get",
    "gradient_ascent",
    "l1_sparse",
    "list",
    "neggrad_plus",
    "random_label",
    "random_topk",
    "randomk",
    "retrain",
    "salun",
    "scrub",
    "ssd",
    "topk",
]
