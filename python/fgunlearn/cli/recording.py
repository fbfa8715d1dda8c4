"""What ``fgunlearn unlearn --audit`` records: prepared before the work, written with its result."""

from __future__ import annotations

import copy
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from fgunlearn import audit
from fgunlearn.audit.fingerprints import Fingerprint, changed_between
from fgunlearn.cli.inputs import check_fits, load_data, load_model
from fgunlearn.cli.paths import check_file, check_folder_of
from fgunlearn.cli.salts import Salt
from fgunlearn.experiment.data import Batches
from fgunlearn.files import replacing
from fgunlearn.perturb import Perturbation
from fgunlearn.selection import Strategy
from fgunlearn.spdgan import SPDGAN
from fgunlearn.unlearning import Repair, Result

BATCH = 256  # samples that a model is given at a time to measure it


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """The options of the command that are about the record; see there."""

    audit: Path | None
    salt: Path | None
    plain_hashes: bool
    sign: Path | None
    test: Path | None
    retrained: Path | None
    gan: Path | None
    relearn_steps: int

    def check(self) -> None:
        """What can be told of them before anything is read.

        Raises:
            ValueError: an option without --audit, two that exclude each other, or a file that can't be put there.
        """
        named = ("salt", "plain_hashes", "sign", "test", "retrained", "gan")
        given = [name for name in named if getattr(self, name)]
        if self.audit is None:
            if given:
                raise ValueError(f"--{given[0].replace('_', '-')} is about the record: it needs --audit")
            return
        check_folder_of(self.audit, "--audit")


class Recording:
    """What has to be known before the model changes.

    Args:
        options: about the record.
        network: the model, before.
        model: the file that it is of.
        arch: what made it.
        x: samples of the training data.
        y: their labels.
        ids: the rows to forget, ascending.
        rest: bool, the other ones.
        heldout: held-out samples and labels, if there are; and whether unlearning looks at them.

    Raises:
        ImportError: a signature is wanted, and the package cryptography is missing.
        TypeError, ValueError: what is wrong with which option.
    """

    def __init__(
        self,
        options: RecordOptions,
        network: nn.Module,
        model: Path,
        arch: str,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        rest: Tensor,
        heldout: tuple[tuple[Tensor, Tensor] | None, bool],
    ) -> None:
        assert options.audit is not None
        self._options, self._path, self._arch = options, options.audit, arch
        self._key = None if options.sign is None else audit.SigningKey(options.sign, "--sign")
        self._salt = Salt.of(options.audit, options.salt, options.plain_hashes)
        unseen, steered = heldout
        if options.test is not None:
            seen, unseen = unseen, load_data(options.test, "--test")
            check_fits(network, *unseen, "--test")
            steered = steered and seen is not None and _overlap(seen, unseen)
        self._forget, self._retain = Batches(x[ids], y[ids], BATCH), Batches(x[rest], y[rest], BATCH)
        self._heldout = None if unseen is None else Batches(*unseen, BATCH)
        self._retrained = None if options.retrained is None else load_model(options.retrained, "--retrained", arch)[0]
        self._gan = None
        if options.gan is not None:
            check_file(options.gan, "--gan")
            self._gan = SPDGAN.load(options.gan)
            self._gan.perturb(x[ids[:1]].clone())  # refused now what would be refused after the work
        self._source = copy.deepcopy(network)
        self._model = model
        self._base: Fingerprint = audit.fingerprint(model)
        self._data = audit.data_of(self._forget, self._retain, self._heldout, salt=self._salt.value, steered=steered)

    def write(
        self,
        result: Result,
        written: Path,
        strategy: Strategy,
        perturb: Perturbation | None,
        repair: Repair,
        options: dict[str, Any],
        seed: int,
    ) -> audit.AuditRecord:
        """Measures, and writes the record and a salt that was made for it.

        Args:
            result: what was done.
            written: the checkpoint that was written.
            strategy: what ``fgunlearn.unlearn`` was given, as the following two.
            perturb: see strategy.
            repair: see strategy.
            options: further ones.
            seed: of the order of the data.

        Raises:
            OSError: a file can't be written.
            ValueError: a model that gives no finite logits.
        """
        start = time.perf_counter()
        after = copy.deepcopy(self._source)
        after.load_state_dict(load_file(written))  # with its rounding, where the file has a smaller dtype
        loaders = (self._forget, self._retain, self._heldout)
        metrics: dict[str, Any] = {
            "base": audit.measured(self._source, *loaders),
            "result": audit.measured(after, *loaders),
            "unlearning_degree": None,
        }
        if self._gan is not None:
            assert self._options.gan is not None
            found = audit.degree(self._source, after, self._gan, self._forget, self._heldout)
            metrics["unlearning_degree"] = {
                **found,
                "gan_sha256": hashlib.sha256(self._options.gan.read_bytes()).hexdigest(),
            }
        relearning = None
        if self._options.relearn_steps > 0:
            how = audit.RelearningOptions(max_steps=self._options.relearn_steps)
            relearning = audit.relearned(self._source, after, self._forget, self._retrained, how)
        record = audit.record(
            result,
            base=self._base,
            result_fingerprint=audit.fingerprint(written),
            data=self._data,
            strategy=strategy,
            perturb=perturb,
            repair=repair,
            options={"arch": self._arch, **options},
            seeds={"data": seed},
            changed={name: bits for name, (_, bits) in changed_between(self._model, written).items()},
            metrics=metrics,
            relearning=relearning,
            seconds={"measure": time.perf_counter() - start},
        )
        if self._key is not None:
            record = self._key.sign(record)
        with replacing(self._path) as temporary:
            temporary.write_bytes(record.text())
            self._salt.keep()
        return record

    def said(self, record: audit.AuditRecord) -> str:
        """Where the record is, in a line or two, and what came of relearning."""
        line = f"The record is in {self._path}, its hash {record.sha256}."
        if self._salt.value is not None:
            line += f"\nThe salt of its sample hashes is in {self._salt.path}: keep it, and keep it apart."
        relearning = record.relearning
        if relearning is not None:
            line += f"\nLearning the forgotten again takes {_steps(relearning['as_is'])} steps, "
            line += f"after rounding to int8 {_steps(relearning['rounded'])}."
        return line


def _overlap(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether a sample is in both."""
    hashes, others = (audit.sample_hashes({"x": x, "y": y}, None) for x, y in (one, other))
    return not set(hashes).isdisjoint(others)


def _steps(found: dict[str, Any]) -> str:
    def said(one: dict[str, Any]) -> str:
        return f"{one['steps']}" if one["reached"] else f"more than {one['steps']}"

    retrained = found["retrained"]
    return said(found["unlearned"]) + ("" if retrained is None else f" (a retrained model: {said(retrained)})")
