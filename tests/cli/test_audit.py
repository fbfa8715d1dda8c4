"""``fgunlearn unlearn --audit`` and ``fgunlearn audit``: a record from the command line, and its checks."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fgunlearn as fg
from audit_commands import ARCHITECTURE, FILES, states, unlearn, verify
from audited import network, samples
from command_line import Run, refused
from fgunlearn import audit
from fgunlearn.audit.verifying import WORD
from fgunlearn.canonical_json import indented


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
