"""``fgunlearn unlearn --audit`` and ``fgunlearn audit``: a record from the command line, and its checks with their exit
statuses."""

from __future__ import annotations

import builtins
import json
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import fgunlearn as fg
from audited import network, samples
from command_line import Run, refused
from fgunlearn import audit
from fgunlearn.audit.canonical import indented
from fgunlearn.audit.verifying import WORD

ARCHITECTURE = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
"""
WHY = "the optional package cryptography is not installed (pip install 'fgunlearn[sign]')"

FILES = {
    "base": "model.safetensors",
    "result": "out.safetensors",
    "data": "data.safetensors",
    "forget": "ids.txt",
    "heldout": "heldout.safetensors",
    "arch": "architecture:make",
    "retrained": "retrained.safetensors",
    "selection": "selection.safetensors",
}
"""All that verifying takes but for keys and patches."""


def trained(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An architecture, a model and one without the forgotten rows, training, held-out and test data, and the rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "architecture", raising=False)
    (tmp_path / "architecture.py").write_text(ARCHITECTURE)
    for name, rows, seed in (("data", 60, 1), ("heldout", 30, 2), ("test", 24, 3)):
        x, y = samples(rows, seed)
        save_file({"x": x, "y": y}, f"{name}.safetensors")
    x, y = samples(60, 1)
    save_file(trained(x, y).state_dict(), "model.safetensors", metadata={"trained": "yesterday"})
    save_file(trained(x[12:], y[12:]).state_dict(), "retrained.safetensors")
    Path("ids.txt").write_text("\n".join(map(str, range(12))))
    return tmp_path


def unlearn(**changes: object) -> list[object]:
    given: dict[str, object] = {
        "model": "model.safetensors",
        "arch": "architecture:make",
        "data": "data.safetensors",
        "forget": "ids.txt",
        "heldout": "heldout.safetensors",
        "out": "out.safetensors",
        "audit": "audit.json",
        "retrained": "retrained.safetensors",
        "save_selection": "selection.safetensors",
        "relearn_steps": 12,
        "ratio": 0.3,
        **changes,
    }
    return ["unlearn", *_as_options(given)]


def verify(*names: str, path: str = "audit.json", **changes: object) -> list[object]:
    return ["audit", "verify", path, *_as_options({**{name: FILES[name] for name in names}, **changes})]


def _as_options(given: dict[str, object]) -> list[object]:
    options: list[object] = []
    for name, value in given.items():
        if value is not None:
            options += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return options


def states(path: str = "checks.json") -> dict[str, str]:
    return {check["claim"]: check["state"] for check in json.loads(Path(path).read_text())["checks"]}


@pytest.fixture
def done(run: Run, folder: Path) -> audit.AuditRecord:
    """The record that the command line has just written, with all that it can hold but for a signature and a degree."""
    status, _, error = run(*unlearn())
    assert (status, error) == (0, "")
    return audit.AuditRecord.load("audit.json")


def test_a_record_from_the_command_line_verifies_against_all_its_files(run: Run, done: audit.AuditRecord) -> None:
    status, out, error = run(*verify(*FILES, json="checks.json"))
    assert (status, error) == (0, "")
    found = states()
    assert {claim for claim, state in found.items() if state != "verified"} == {
        "signature",
        "a forget patch is for these checkpoints",
        "unlearning degree",
        WORD,
    }
    assert "21 verified, nothing differs, 4 not checked" in out
    assert f"{json.loads(Path('checks.json').read_text())['sha256']}" == done.sha256
    for claim in found:
        assert claim in out


def test_the_record_is_of_the_files_and_the_options(run: Run, done: audit.AuditRecord) -> None:
    assert done.base == audit.fingerprint("model.safetensors")
    assert done.result == audit.fingerprint("out.safetensors")
    assert done.method is not None
    assert done.method["name"] == "unlearn"
    assert {"arch": "architecture:make", "batch": 32, "recipe": "forget_term"}.items() <= done.method["options"].items()
    assert done.seeds == {"data": 0, "repair": 0}
    assert done.seconds.keys() == {"select", "forget setup", "perturb", "repair", "measure"}
    assert done.relearning is not None
    assert done.relearning["as_is"]["retrained"] is not None
    assert done.selection is not None
    assert done.selection["strategy"]["ratio"] == 0.3


def test_the_report_says_where_the_record_and_the_salt_are_and_what_relearning_showed(run: Run, folder: Path) -> None:
    out = run(*unlearn())[1]
    record = audit.AuditRecord.load("audit.json")
    assert f"The record is in audit.json, its hash {record.sha256}." in out
    assert "The salt of its sample hashes is in audit.json.salt: keep it, and keep it apart." in out
    assert "Learning the forgotten again takes " in out
    assert "a retrained model: " in out


def test_held_out_data_that_steered_is_told_from_data_that_nothing_looked_at(run: Run, folder: Path) -> None:
    for changes, seen in (({}, True), ({"test": "test.safetensors"}, False)):
        assert run(*unlearn(**changes, relearn_steps=0))[0] == 0
        record = audit.AuditRecord.load("audit.json")
        assert record.data is not None
        assert record.data["heldout"]["seen_by_unlearning"] is seen
        assert record.relearning is None
    assert run(*verify("result", "data", "forget", "arch", heldout="test.safetensors"))[0] == 0
    assert run(*verify("heldout"))[0] == 1
    alone = {"heldout": None, "perturb": "none", "recipe": "perturb_repair", "relearn_steps": 0}
    assert run(*unlearn(**alone))[0] == 0
    record = audit.AuditRecord.load("audit.json")
    assert record.data is not None
    assert record.data["heldout"] is record.perturbation is None
    assert record.metrics is not None
    assert record.metrics["result"]["membership"] is None


def test_held_out_data_under_another_name_was_seen_all_the_same(run: Run, folder: Path) -> None:
    x, y = samples(30, 2)
    u, v = samples(24, 3)
    save_file({"x": torch.cat([u, x[:1]]), "y": torch.cat([v, y[:1]])}, "mixed.safetensors")
    for test, seen, copies in (("heldout", True, 0), ("mixed", True, 0), ("data", False, 60)):
        assert run(*unlearn(test=f"{test}.safetensors", relearn_steps=0))[0] == 0
        record = audit.AuditRecord.load("audit.json")
        assert record.data is not None
        held = record.data["heldout"]
        assert (held["seen_by_unlearning"], held["copies"]) == (seen, copies), test


def test_the_seed_and_the_options_of_a_record_give_its_result_again(run: Run, folder: Path) -> None:
    """With dropout, whatever random numbers were drawn before."""
    text = ARCHITECTURE.replace("nn.ReLU()", "nn.Dropout(0.5)")
    (folder / "architecture.py").write_text(text)
    found = []
    for draws, seed in ((0, 3), (7, 3), (7, 4)):
        torch.rand(draws)
        assert run(*unlearn(seed=seed, relearn_steps=0 if draws == 0 else 12, perturb="gaussian"))[0] == 0
        found.append(audit.AuditRecord.load("audit.json"))
    assert found[0].result == found[1].result != found[2].result
    assert found[0].seeds == {"data": 3, "perturbation": 3, "repair": 3}
    torch.rand(5)
    assert run(*verify(*FILES, path="audit.json", json="checks.json"))[0] == 0


def test_a_record_has_no_path_no_row_and_no_sample(run: Run, folder: Path) -> None:
    (folder / "secret-place").mkdir()
    for name in ("data.safetensors", "heldout.safetensors", "ids.txt", "model.safetensors", "retrained.safetensors"):
        (folder / name).rename(folder / "secret-place" / name)
    place = folder / "secret-place"
    Path("secret-place/ids.txt").write_text("17\n23\n")
    status, _, error = run(
        *unlearn(
            model=place / "model.safetensors",
            data=place / "data.safetensors",
            heldout=place / "heldout.safetensors",
            forget=place / "ids.txt",
            retrained=place / "retrained.safetensors",
            out=place / "out.safetensors",
            save_selection=place / "selection.safetensors",
        )
    )
    assert (status, error) == (0, "")
    text = Path("audit.json").read_text()
    assert not re.search(r"secret|safetensors|\.txt|/tmp|\bhome\b|" + re.escape(str(folder)), text)
    document = json.loads(text)
    assert document["data"]["forgotten"]["count"] == 2
    numbers = {float(each) for each in re.findall(r"-?\d+\.\d+(?:e[+-]\d+)?", text)}
    assert not numbers & {*samples(60, 1)[0].flatten().tolist()}
    assert Path("audit.json.salt").read_text().strip() not in text
    for value in ('"17"', " 17,", " 23,", " 17\n", " 23\n"):
        assert value not in text


def test_a_salt_is_made_once_and_used_again(run: Run, done: audit.AuditRecord) -> None:
    salt = Path("audit.json.salt")
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    was = salt.read_text()
    assert run(*unlearn(relearn_steps=0))[0] == 0
    assert salt.read_text() == was
    again = audit.AuditRecord.load("audit.json")
    assert again.data == done.data
    assert run(*unlearn(relearn_steps=0, salt="other.salt"))[0] == 0
    assert audit.AuditRecord.load("audit.json").data != done.data
    assert run(*verify("data", "forget"))[0] == 1  # the salt beside the record is not its own any more
    assert run(*verify("data", "forget", salt="other.salt"))[0] == 0


def test_plain_hashes_need_no_salt(run: Run, folder: Path) -> None:
    assert run(*unlearn(relearn_steps=0, plain_hashes=True))[0] == 0
    assert not list(folder.glob("*.salt"))
    record = audit.AuditRecord.load("audit.json")
    x, y = samples(60, 1)
    assert record.data == audit.data_of(
        [(x[:12], y[:12])], [(x[12:], y[12:])], [samples(30, 2)], salt=None, steered=True
    )
    assert run(*verify("data", "forget"))[0] == 0


def test_a_model_in_a_smaller_dtype_is_recorded_as_it_is_written(run: Run, folder: Path) -> None:
    halves = {n: t.bfloat16() if t.is_floating_point() else t for n, t in load_file("model.safetensors").items()}
    save_file(halves, "model.safetensors")
    assert run(*unlearn())[0] == 0
    record = audit.AuditRecord.load("audit.json")
    assert record.result["0.weight"]["dtype"] == "BF16"
    assert run(*verify(*FILES, json="checks.json"))[0] == 0
    for claim in ("membership of the result", "how many values changed", "relearning of the retrained model"):
        assert states()[claim] == "verified"


def test_a_result_can_replace_its_base(run: Run, folder: Path) -> None:
    before = audit.fingerprint("model.safetensors")
    assert run(*unlearn(out="model.safetensors"))[0] == 0
    record = audit.AuditRecord.load("audit.json")
    assert record.base == before
    assert record.changed is not None
    assert record.changed["values"]
    assert run(*verify(result="model.safetensors"))[0] == 0


def test_after_an_error_there_is_neither_result_nor_record_nor_salt(run: Run, folder: Path) -> None:
    for name in ("out.safetensors", "audit.json"):
        Path(name).write_text("the old one")
    refused(run(*unlearn(lr=1e30)), "diverged")
    assert Path("out.safetensors").read_text() == Path("audit.json").read_text() == "the old one"
    assert not list(folder.glob("*.salt"))


def test_the_unlearning_degree_is_recorded_where_an_spdgan_is_given(run: Run, folder: Path) -> None:
    x, y = samples(60, 1)
    model = network()
    model.load_state_dict(load_file("model.safetensors"))
    gan = fg.SPDGAN(width=4, fitting=fg.spdgan.Fitting(steps=2)).fit(model, [(x[:12], y[:12])], [(x[12:], y[12:])])
    gan.save("gan.safetensors")
    assert run(*unlearn(gan="gan.safetensors", relearn_steps=0))[0] == 0
    record = audit.AuditRecord.load("audit.json")
    assert record.metrics is not None
    assert record.metrics["unlearning_degree"]["net"].keys() == {"value", "low", "high"}
    everything = [name for name in FILES if name != "retrained"]
    assert run(*verify(*everything, gan="gan.safetensors", json="checks.json"))[0] == 0
    assert states()["unlearning degree"] == "verified"
    gan.save("other.safetensors")
    with Path("other.safetensors").open("ab") as file:  # one more byte of data than its header knows of
        file.write(b" ")
    status, _, error = run(*verify(*everything, gan="other.safetensors"))
    assert (status, "other.safetensors" in error) == (2, True)
    other = fg.SPDGAN(width=4, seed=1, fitting=fg.spdgan.Fitting(steps=2))
    other.fit(model, [(x[:12], y[:12])], [(x[12:], y[12:])]).save("other.safetensors")
    status, out, _ = run(*verify(*everything, gan="other.safetensors"))
    assert status == 1
    assert "it was measured with another SPD-GAN" in out


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"audit": None}, ["--retrained", "--audit"]),
        ({"audit": None, "retrained": None, "plain_hashes": True}, ["--plain-hashes", "--audit"]),
        ({"audit": "nowhere/audit.json"}, ["--audit", "nowhere"]),
        ({"salt": "nowhere/salt"}, ["--salt", "nowhere"]),
        ({"salt": "ids.txt"}, ["--salt", "ids.txt", "64 hexadecimal digits"]),
        ({"salt": "salt", "plain_hashes": True}, ["--salt", "--plain-hashes"]),
        ({"test": "model.safetensors"}, ["--test", "x and y"]),
        ({"retrained": "data.safetensors"}, ["--retrained", "does not fit"]),
        ({"gan": "nowhere"}, ["--gan", "nowhere"]),
        ({"save_selection": "nowhere/s"}, ["--save-selection", "nowhere"]),
        ({"relearn_steps": -1}, ["--relearn-steps", "-1"]),
        ({"audit": "out.safetensors"}, ["--audit", "out.safetensors", "--out"]),
        ({"audit": "./ids.txt"}, ["--audit", "ids.txt", "--forget"]),
        ({"save_selection": "data.safetensors"}, ["--save-selection", "--data"]),
    ],
)
def test_unlearn_refuses_what_it_cant_record(
    run: Run, folder: Path, changes: dict[str, object], parts: list[str]
) -> None:
    refused(run(*unlearn(**changes)), *parts)
    assert not Path("out.safetensors").exists()


def test_a_difference_is_exit_status_1(run: Run, done: audit.AuditRecord) -> None:
    assert run(*verify("base", "result"))[0] == 0
    status, out, _ = run(*verify(base="out.safetensors", result="model.safetensors"))
    assert status == 1
    assert "differs" in out
    assert "tensor '0.bias': sha256 is" in out
    assert "3 differ" in out or "2 differ" in out
    Path("ids.txt").write_text("\n".join(map(str, range(1, 12))))
    status, out, _ = run(*verify("data", "forget"))
    assert status == 1
    assert "the record claims 12 samples, 11 are given" in out
    document = json.loads(Path("audit.json").read_text())
    document["seconds"]["repair"] = 0.001
    Path("audit.json").write_bytes(indented(document))
    status, out, _ = run(*verify())
    assert status == 1
    assert "the record's own hash" in out


def test_no_name_in_a_record_can_pose_as_a_line_of_the_report(run: Run, done: audit.AuditRecord) -> None:
    document = json.loads(Path("audit.json").read_text())
    name = "x\nsignature                 verified\x1b[2J [bold]by the chairman[/nothing]"
    document["metrics"]["base"]["forget"][name] = 1
    document["changed"]["buffers"].append(name)
    Path("audit.json").write_bytes(indented(document))
    everything = {option: FILES[option] for option in FILES}
    status, out, _ = run(*verify(**everything))
    assert status == 1
    assert "\x1b" not in out
    assert not [line for line in out.splitlines() if line.strip().startswith("signature") and "verified" in line]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"path": "nowhere.json"}, ["nowhere.json"]),
        ({"path": "ids.txt"}, ["ids.txt", "not JSON"]),
        ({"path": "number.json"}, ["number.json", "not an audit record"]),
        ({"path": "newer.json"}, ["newer.json", "version 2"]),
        ({"path": "nan.json"}, ["nan.json", "NaN"]),
        ({"base": "nowhere"}, ["--base", "nowhere"]),
        ({"base": "ids.txt"}, ["ids.txt", "safetensors"]),
        ({"patch": "nowhere"}, ["--patch", "nowhere"]),
        ({"data": "data.safetensors"}, ["--data", "--forget"]),
        ({"forget": "ids.txt"}, ["--data", "--forget"]),
        ({"data": "data.safetensors", "forget": "far.txt"}, ["--forget", "60"]),
        ({"data": "model.safetensors", "forget": "ids.txt"}, ["--data", "x and y"]),
        ({"salt": "nowhere"}, ["--salt", "nowhere"]),
        ({"heldout": "model.safetensors"}, ["--heldout", "x and y"]),
        ({"base": "model.safetensors", "arch": "nowhere:make"}, ["--arch", "nowhere"]),
        ({"result": "data.safetensors", "arch": "architecture:make"}, ["--result", "does not fit"]),
        ({"retrained": "retrained.safetensors"}, ["--retrained", "--arch"]),
        ({"gan": "gan.safetensors"}, ["--gan", "--arch"]),
        ({"selection": "data.safetensors"}, ["data.safetensors", "Selection"]),
        ({"selection": "nowhere"}, ["--selection", "nowhere"]),
        ({"json": "nowhere/checks.json"}, ["--json", "nowhere"]),
        ({"json": "audit.json"}, ["--json", "audit.json", "AUDIT"]),
        (
            {"base": "model.safetensors", "arch": "architecture:make", "data": "wide.safetensors", "forget": "ids.txt"},
            ["--data", "does not take samples of shape (7,)"],
        ),
    ],
)
def test_what_cant_be_read_is_exit_status_2(
    run: Run, done: audit.AuditRecord, changes: dict[str, Any], parts: list[str]
) -> None:
    text = Path("audit.json").read_text()
    Path("number.json").write_text("5")
    Path("newer.json").write_text(text.replace('"version": 1', '"version": 2'))
    Path("nan.json").write_text(text.replace('"version": 1', '"version": NaN'))
    Path("far.txt").write_text("60\n")
    save_file({"x": torch.zeros(60, 7), "y": torch.zeros(60, dtype=torch.int64)}, "wide.safetensors")
    refused(run(*verify(**changes)), *parts)


@pytest.fixture
def keys(folder: Path) -> None:
    """key.pem and pub.pem, other.pem and other-pub.pem."""
    pytest.importorskip("cryptography", reason=WHY)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    for private, public in (("key.pem", "pub.pem"), ("other.pem", "other-pub.pem")):
        key = Ed25519PrivateKey.generate()
        Path(private).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        Path(f"locked-{private}").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame"))
        )
        Path(public).write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_a_record_is_signed_when_it_is_made_or_later(run: Run, keys: None) -> None:
    assert run(*unlearn(relearn_steps=0, sign="key.pem"))[0] == 0
    assert run(*verify(key="pub.pem"))[0] == 0
    assert run(*verify(key="other-pub.pem"))[0] == 1
    status, out, _ = run("audit", "sign", "audit.json", "--key", "other.pem", "--out", "signed.json")
    assert status == 0
    assert "Signed by the key " in out
    assert run(*verify(path="signed.json", key="other-pub.pem"))[0] == 0
    assert run(*verify(key="pub.pem"))[0] == 0  # the first one is as it was
    Path("password").write_text("sesame\n")
    refused(run("audit", "sign", "audit.json", "--key", "locked-other.pem"), "--key", "encrypted")
    options = ("--key", "locked-other.pem", "--password-file", "password")
    assert run("audit", "sign", "audit.json", *options)[0] == 0
    assert run(*verify(key="other-pub.pem"))[0] == 0
    refused(run("audit", "sign", "audit.json", "--key", "other.pem", "--out", "other.pem"), "--out", "--key")
    refused(run(*verify(key="key.pem")), "--key", "takes the public key")
    refused(run(*verify(key="ids.txt")), "--key", "ids.txt", "no public key")
    refused(run("audit", "sign", "audit.json", "--key", "pub.pem"), "--key", "no private key")
    refused(run("audit", "sign", "audit.json", "--key", "key.pem", "--password-file", "no"), "--password-file", "no")
    text = Path("audit.json").read_text()
    Path("audit.json").write_text(text.replace('"data": 0', '"data": 1'))
    refused(run("audit", "sign", "audit.json", "--key", "key.pem"), "audit.json", "altered")


def test_a_signature_that_was_taken_away_is_missed(run: Run, keys: None) -> None:
    assert run(*unlearn(relearn_steps=0))[0] == 0
    status, out, _ = run(*verify(key="pub.pem"))
    assert status == 1
    assert "the record has no signature" in out


def test_without_cryptography_signing_is_refused_before_any_work(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*unlearn(relearn_steps=0))[0] == 0
    Path("out.safetensors").unlink()
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "cryptography":
            raise ImportError("No module named 'cryptography'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    said = ("cryptography", "pip install 'fgunlearn[sign]'")
    refused(run(*unlearn(sign="key.pem")), *said)
    assert not Path("out.safetensors").exists()
    refused(run(*verify(key="pub.pem")), *said)
    refused(run("audit", "sign", "audit.json", "--key", "key.pem"), *said)
    assert run(*verify())[0] == 0


def test_a_patch_and_the_record_of_its_unlearning_match(run: Run, done: audit.AuditRecord) -> None:
    patch = pytest.importorskip("fgunlearn.patch", reason="this fgunlearn has no patches yet")
    patch.create("model.safetensors", "out.safetensors", "forget.patch")
    assert run(*verify(patch="forget.patch", json="checks.json"))[0] == 0
    assert states()["a forget patch is for these checkpoints"] == "verified"
    patch.create("out.safetensors", "model.safetensors", "back.patch")
    assert run(*verify(patch="back.patch"))[0] == 1
    assert run("audit", "patch", "forget.patch", "patch.json", "--data", FILES["data"], "--forget", "ids.txt")[0] == 0
    checked = verify("base", "result", "data", "forget", path="patch.json", patch="forget.patch", json="checks.json")
    assert run(*checked)[0] == 0
    assert [states()[claim] for claim in ("base checkpoint", "how many values changed", "forgotten samples")] == (
        3 * ["verified"]
    )
    assert audit.AuditRecord.load("patch.json").kind == "patch"
    refused(run("audit", "patch", "nowhere", "patch.json"), "PATCH_FILE", "nowhere")
    refused(run("audit", "patch", "ids.txt", "patch.json"), "ids.txt")
    refused(run("audit", "patch", "forget.patch", "nowhere/patch.json"), "AUDIT", "nowhere")
    refused(run("audit", "patch", "forget.patch", "patch.json", "--plain-hashes"), "--plain-hashes", "--data")
    refused(run("audit", "patch", "forget.patch", "forget.patch"), "AUDIT", "PATCH_FILE")
    before = Path("patch.json").read_text()
    document = json.loads(before)
    document["patch"]["metadata"] = {"strategy": "another"}
    Path("patch.json").write_bytes(indented({**document, "sha256": "0" * 64}))
    status, out, _ = run(*verify(path="patch.json", patch="forget.patch"))
    assert status == 1
    assert "the record has other metadata of the patch" in out


@pytest.mark.parametrize("command", [["audit"], ["audit", "verify"], ["audit", "sign"], ["audit", "patch"]])
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert "Usage" in out
