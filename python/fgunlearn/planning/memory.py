"""Bytes that a device must hold, phase by phase: what the code allocates, as formulas.

With n parameters of b bytes, k of them selected, the largest tensor of m elements, sums of s = 4 bytes (8 of float64
parameters), indices of w = 4 bytes (8 where a tensor has 2^31 elements or more) and D devices. All are upper bounds of
what lives at one time within the phase: activations and gradients are added, though the first go as the second come.
Not in them: the interpreter, a CUDA context (some hundred MB), and what an allocator holds without need.

Sharded means FSDP2 (``fully_shard``) over all devices, on each block and on the model: of weights, gradients, scores
and state a device holds 1/D, and selected coordinates are taken to be spread evenly. Beside its shard it holds whole
tensors for as long as they are computed with: the root's (embedding and output stay gathered), and a block's with the
next one prefetched; of gradients the output's from the start of the backward pass, and a block's twice, or the root's
twice at the end, because reducing copies them first. That is read from FSDP2's code, and an estimate.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from fgunlearn.planning.model import ModelSize
from fgunlearn.planning.setting import STATES, Setting, share_of
from fgunlearn.scoring import CHUNK, FUSED_KINDS

INT64 = 8
MERGING = INT64 + 1
"""Bytes per coordinate while two lists of indices become one (``selection.ascending``): places, and a mask."""

MAKING_COORDINATES = 5 * INT64
"""Bytes per coordinate of a matrix, beside the result, while its indices become rows and columns: int64 indices, and
for each dimension a quotient and a remainder (``torch.unravel_index``)."""

CANDIDATES, CANDIDATE = 0.004, 20
"""Share of the keys that a dense selection on the CPU keeps around the threshold, and bytes of each, twice the key's
included (``csrc/cpu/select.h`` says 0.1 to 0.4%, 16 bytes)."""

COLLECTED = 48
"""Bytes of a coordinate that ranking in passes collects around the threshold: index, key and place, each twice, and
what they are compared by (``fgunlearn.selection.streaming``)."""

COUNTS = 2**16 * (2 * INT64 + 2 * (INT64 + 4))
"""Histograms of 2^16 bins: the sums, a chunk's, and those of two workers, 64 and 32 bits wide."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they are for.

    Attributes:
        weights: parameters; sharded, also those that are gathered.
        gradients: all that exist at a time.
        scores: running sums, or the part of a gradient's score that is worked on.
        work: what ranking and merging need; temporaries of a dense optimizer.
        selection: selected indices, in the repair also coordinates and values of the gradient there.
        state: an optimizer's.
        activations: kept for the backward pass.
    """

    weights: int
    gradients: int
    scores: int
    work: int
    selection: int
    state: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(astuple(self))


def select_dense(model: ModelSize, setting: Setting) -> Memory:
    """``fgunlearn.select(memory="dense")``: every gradient of a batch, and every score, twice that for "fisher_ratio".

    n b + n s. Scores that are ranked as they are added up ("grad", "abs_grad", "fisher") are ranked while the gradients
    live: a bit per coordinate and the keys around the threshold; for the others gradients are gone by then, and were
    larger. The indices exist twice, packed and by tensor. Sharded, ranking needs two bits per coordinate and collects
    keys around the threshold, taken for about as many as are selected.
    """
    n, k, w = share_of(model, setting)
    if setting.devices > 1:
        work = 2 * (n // 8) + COLLECTED * k
    else:
        work = n // 8 + round(CANDIDATES * CANDIDATE * n) if setting.score in FUSED_KINDS else 0
    return _memory(
        model,
        setting,
        gradients=_all_gradients(model, setting),
        scores=n * model.sum_itemsize * setting.sums_per_coordinate,
        work=work,
        selection=2 * k * w,
    )


def select_streaming(model: ModelSize, setting: Setting) -> Memory:
    """``fgunlearn.select(memory="streaming")``: a gradient at a time (a tied one waits beside the others).

    One batch: the scores of 2^22 coordinates at a time. More batches, or "fisher_ratio": the sums of as many parameters
    as fit the budget, never less than the largest tensor's. Work: histograms, two bits per coordinate worked on, the
    coordinates around the threshold, taken for as many as are selected and never more than a quarter of the budget
    (where scores are spread they are fewer: those that share 16 leading bits with the k-th), and the places where two
    lists of indices become one, as if all were one tensor's. The indices exist twice while they do.
    """
    n, k, w = share_of(model, setting)
    largest = -(-model.largest_tensor // setting.devices)
    chunk = min(CHUNK, largest)
    if setting.one_batch:
        scores = chunk * model.sum_itemsize
    else:
        each = model.sum_itemsize * setting.sums_per_coordinate
        scores = min(n * each, max(setting.budget(model), largest * each))
    collected = min(setting.budget(model) // 4, COLLECTED * k)
    return _memory(
        model,
        setting,
        gradients=_one_at_a_time(model, setting),
        scores=scores,
        work=COUNTS + 2 * (chunk // 8) + collected + MERGING * k,
        selection=2 * k * w,
    )


def repair(model: ModelSize, setting: Setting, *, free_grads: bool) -> Memory:
    """A step of ``SparseOptimizer``: states of k values.

    With ``free_grads`` a gradient at a time; each coordinate has its index, the gradient's value and two int64 (a
    sparse matrix's row and column), and while rows and columns are made, for all of a tensor's at once, temporaries. Of
    shards index and value are enough. Else all gradients, and the indices alone.
    """
    _, k, w = share_of(model, setting)
    gradients, selection, work = _all_gradients(model, setting), k * w, 0
    if free_grads:
        gradients, selection = _one_at_a_time(model, setting), k * (w + model.itemsize)
        if setting.devices == 1:
            selection += k * 2 * INT64
            work = MAKING_COORDINATES * k
    state = STATES[setting.optimizer] * k * model.sum_itemsize
    return _memory(model, setting, gradients=gradients, selection=selection, work=work, state=state)


def adamw(model: ModelSize, setting: Setting) -> Memory:
    """A step of ``torch.optim.AdamW`` on all parameters: gradients and two states, all in the parameters' dtype.

    torch's loop over tensors, which it takes on a CPU, has two temporaries of the largest; ``foreach``, which it takes
    on a GPU, one of all parameters; ``fused`` none. Counted is the loop's.
    """
    n, _, _ = share_of(model, setting)
    largest = -(-model.largest_tensor // setting.devices)
    return _memory(
        model,
        setting,
        gradients=_all_gradients(model, setting),
        state=2 * n * model.itemsize,
        work=2 * largest * model.itemsize,
    )


def adamw_mixed(model: ModelSize, setting: Setting) -> Memory:
    """The same in mixed precision: beside the parameters float32 masters and float32 states, as models are trained."""
    n, _, _ = share_of(model, setting)
    masters_and_states = n * (4 + 2 * 4)
    work = 2 * -(-model.largest_tensor // setting.devices) * 4
    return replace(adamw(model, setting), state=masters_and_states, work=work)


def _all_gradients(model: ModelSize, setting: Setting) -> int:
    n, _, _ = share_of(model, setting)
    return n * model.itemsize + _unsharded_gradients(model, setting)


def _one_at_a_time(model: ModelSize, setting: Setting) -> int:
    if setting.devices == 1:
        return model.largest_tensor * model.itemsize * (2 if model.tied else 1)
    sharded = -(-max(model.root, model.block) // setting.devices) * model.itemsize
    return sharded + _unsharded_gradients(model, setting)


def _unsharded_gradients(model: ModelSize, setting: Setting) -> int:
    if setting.devices == 1:
        return 0
    return max(model.largest_tensor + 2 * model.block, 2 * model.root) * model.itemsize


def _memory(
    model: ModelSize,
    setting: Setting,
    *,
    gradients: int,
    scores: int = 0,
    work: int = 0,
    selection: int = 0,
    state: int = 0,
) -> Memory:
    n, _, _ = share_of(model, setting)
    gathered = (model.root + 2 * model.block) * model.itemsize if setting.devices > 1 else 0
    weights = n * model.itemsize + gathered
    return Memory(weights, gradients, scores, work, selection, state, setting.kept(model))
