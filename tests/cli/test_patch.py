"""``fgunlearn patch``: what it prints and writes, and what it refuses with exit status 2 and one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import fgunlearn as fg
from audit_commands import states, unlearn
from checkpoints import changed, contents, random_tensor, write, write_sharded
from command_line import Run, press_ctrl_c, refused, start
from fgunlearn import audit, patch

TENSORS = {"w": random_tensor("F32", (5, 7), 1), "b": random_tensor("BF16", (9,), 2), "n": random_tensor("I64", ())}
AFTER = {**changed(TENSORS), "n": TENSORS["n"]}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints base and new, and p, the patch between them."""
    monkeypatch.chdir(tmp_path)
    patch.create(write(Path("base"), TENSORS), write(Path("new"), AFTER), "p", metadata={"strategy": "topk"})
    return tmp_path


def _done(result: tuple[int, str, str]) -> str:
    status, out, error = result
    assert (status, error) == (0, "")
    return out


def test_a_change_goes_out_and_comes_back(run: Run, work: Path) -> None:
    out = _done(run("patch", "create", "base", "new", "q", "--note", "strategy=topk", "--note", "why=a=b"))
    assert out == f"6 of 45 values change: q, {Path('q').stat().st_size} bytes.\n"
    assert patch.inspect("q").metadata == {"fgunlearn": fg.__version__, "strategy": "topk", "why": "a=b"}
    assert _done(run("patch", "apply", "base", "q", "out")) == "6 of 45 values changed: out.\n"
    assert Path("out").read_bytes() == Path("new").read_bytes()
    assert _done(run("patch", "revert", "out", "q", "back")) == "6 of 45 values changed back: back.\n"
    assert Path("back").read_bytes() == Path("base").read_bytes()
    assert _done(run("patch", "apply", "base", "q", "--in-place")) == "6 of 45 values changed: base.\n"
    assert Path("base").read_bytes() == Path("new").read_bytes()
    assert _done(run("patch", "revert", "base", "q", "--in-place")) == "6 of 45 values changed back: base.\n"
    assert Path("base").read_bytes() == Path("back").read_bytes()


def test_inspect_shows_what_changes(run: Run, work: Path) -> None:
    out = _done(run("patch", "inspect", "p", "--json", "p.json"))
    made = patch.inspect("p")
    assert f"p: {made.size} bytes, SHA-256 {made.sha256}\n" in out
    assert "strategy: topk\n" in out
    assert "6 of 45 values change, in 2 of 3 tensors\n" in out
    assert any(line.split() == ["w", "F32", "5", "x", "7", "3", "35", "8.571%"] for line in out.splitlines())
    said = json.loads(Path("p.json").read_text())
    assert (said["sha256"], said["size"], said["changed"]) == (made.sha256, made.size, 6)
    assert [tensor["name"] for tensor in said["tensors"]] == [tensor.name for tensor in made.tensors]
    assert said["tensors"][0]["base_sha256"] == made.tensors[0].base_sha256
    assert said["metadata"] == {"strategy": "topk"}


def test_names_can_not_move_the_cursor_or_be_taken_for_markup(run: Run, work: Path) -> None:
    names = ["a\nb", "\x1b[2J", "[red]x[/red]", ":smile:"]
    tensors = {name: random_tensor("U8", (4,), i) for i, name in enumerate(names)}
    patch.create(write(Path("a"), tensors), write(Path("b"), changed(tensors)), "q", metadata={"x\ry": ":cat:\n[b]"})
    out = _done(run("patch", "inspect", "q"))
    for shown in ("a\\nb", "\\x1b[2J", "[red]x[/red]", ":smile:", "x\\ry: :cat:\\n[b]"):
        assert shown in out
    assert "\x1b" not in out


def test_recover_says_whether_there_was_anything(run: Run, work: Path) -> None:
    was = Path("base").read_bytes()
    assert _done(run("patch", "recover", "base")) == "No change of base was interrupted.\n"
    Path(".base.applying").write_bytes(Path("p").read_bytes())
    Path("base").write_bytes(Path("new").read_bytes())
    refused(run("patch", "apply", "base", "p", "out"), "base", "interrupted", "fgunlearn patch recover")
    assert _done(run("patch", "recover", "base")).startswith("base is what it was before")
    assert Path("base").read_bytes() == was
    assert not Path(".base.applying").exists()


@pytest.mark.parametrize("command", ["create", "apply", "apply in place", "audit patch"])
def test_a_record_of_the_change_verifies_against_patch_and_checkpoints(run: Run, work: Path, command: str) -> None:
    arguments = {
        "create": ["patch", "create", "base", "new", "p", "--note", "strategy=topk", "--audit", "audit.json"],
        "apply": ["patch", "apply", "base", "p", "out", "--audit", "audit.json"],
        "apply in place": ["patch", "apply", "copy", "p", "--in-place", "--audit", "audit.json"],
        "audit patch": ["audit", "patch", "p", "audit.json"],
    }[command]
    Path("copy").write_bytes(Path("base").read_bytes())
    out = _done(run(*arguments))
    record = audit.AuditRecord.load("audit.json")
    assert f"The record is in audit.json, its hash {record.sha256}." in out
    assert record.kind == "patch"
    metadata = {"strategy": "topk", **({"fgunlearn": fg.__version__} if command == "create" else {})}
    assert record.patch == {"sha256": patch.inspect("p").sha256, "metadata": metadata}
    assert (record.base, record.result) == (audit.fingerprint("base"), audit.fingerprint("new"))
    verify = ("audit", "verify", "audit.json", "--base", "base", "--result", "new", "--json", "checks.json")
    out = _done(run(*verify, "--patch", "p"))
    claim = "a forget patch is for these checkpoints"
    assert states()[claim] == "verified"
    assert "differs" not in states().values()
    _done(run("patch", "create", "new", "base", "other"))
    assert run(*verify, "--patch", "other")[0] == 1
    assert [name for name, state in states().items() if state == "differs"] == [claim]


def test_a_record_of_a_sharded_checkpoint(run: Run, work: Path) -> None:
    base = write_sharded(Path("a"), {"1": {"w": TENSORS["w"]}, "2": {"b": TENSORS["b"]}})
    new = write_sharded(Path("b"), {"1": {"w": AFTER["w"], "b": AFTER["b"]}})
    _done(run("patch", "create", base, new, "q", "--audit", "audit.json"))
    record = audit.AuditRecord.load("audit.json")
    assert record.base == audit.fingerprint(base)
    assert record.result == audit.fingerprint(new)
    _done(run("patch", "apply", base, "q", "c"))
    assert audit.fingerprint(Path("c", base.name)) == record.result
    for shard in ("a/1", "a/2"):
        before = contents(work)
        refused(run("patch", "create", base, new, "other", "--audit", shard), "--audit", shard, "BASE")
        assert contents(work) == before


REFUSALS: dict[str, tuple[list[str], list[str]]] = {
    "wrong base": (["apply", "new", "p", "out"], ["tensor 'w' is not the base of p"]),
    "wrong base in place": (["apply", "new", "p", "--in-place"], ["tensor 'w' is not the base of p"]),
    "wrong result": (["revert", "base", "p", "out"], ["tensor 'w' is not the result of p"]),
    "no patch": (["apply", "base", "new", "out"], ["new is not a forget patch"]),
    "a folder for a patch": (["inspect", "folder"], ["folder is not a regular file"]),
    "a folder for a base": (["apply", "folder", "p", "out"], ["folder is a folder"]),
    "no such patch": (["apply", "base", "nowhere", "out"], ["nowhere"]),
    "no such base": (["apply", "nowhere", "p", "out"], ["nowhere"]),
    "no such checkpoint": (["recover", "nowhere"], ["nowhere"]),
    "cut off": (["inspect", "cut"], ["cut is cut off"]),
    "altered": (["inspect", "altered"], ["altered is damaged or was altered", "SHA-256"]),
    "newer": (["inspect", "newer"], ["newer has format version '2', newer than 1"]),
    "neither out nor in place": (["apply", "base", "p"], ["OUT", "--in-place"]),
    "both": (["revert", "new", "p", "out", "--in-place"], ["OUT", "--in-place"]),
    "onto the base": (["apply", "base", "p", "base"], ["out: base is base, which is read"]),
    "onto the patch": (["apply", "base", "p", "p"], ["out: p is p, which is read"]),
    "patch onto a checkpoint": (["create", "base", "new", "new"], ["patch_file: new is new, which is read"]),
    "read-only": (["apply", "locked", "p", "--in-place"], ["base: locked is read-only"]),
    "onto read-only": (["apply", "base", "p", "locked"], ["out: locked is read-only"]),
    "other tensors": (["create", "base", "cousin", "q"], ["'b' is missing in cousin"]),
    "no folder": (["apply", "base", "p", "nowhere/out"], ["no folder nowhere"]),
    "record nowhere": (["apply", "base", "p", "out", "--audit", "nowhere/a"], ["--audit: nowhere/a"]),
    "record onto the base": (["apply", "base", "p", "out", "--audit", "base"], ["--audit", "BASE"]),
    "record onto the patch": (["create", "base", "new", "q", "--audit", "q"], ["--audit", "PATCH_FILE"]),
    "record onto the result": (["apply", "base", "p", "out", "--audit", "out"], ["--audit", "OUT"]),
    "figures onto the patch": (["inspect", "p", "--json", "p"], ["--json", "PATCH_FILE"]),
    "note without a name": (["create", "base", "new", "q", "--note", "=x"], ["--note", "'=x'"]),
    "note without a text": (["create", "base", "new", "q", "--note", "x"], ["--note", "'x'"]),
    "note twice": (["create", "base", "new", "q", "--note", "x=1", "--note", "x=2"], ["--note", "'x'", "twice"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_in_one_line_and_nothing_changes(run: Run, work: Path, case: str) -> None:
    held = Path("p").read_bytes()
    Path("folder").mkdir()
    Path("cut").write_bytes(held[:-1])
    Path("altered").write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    Path("newer").write_bytes(held.replace(b'"version":"1"', b'"version":"2"'))
    Path("locked").write_bytes(Path("base").read_bytes())
    Path("locked").chmod(0o444)
    write(Path("cousin"), {"w": TENSORS["w"]})
    arguments, parts = REFUSALS[case]
    before = contents(work)
    refused(run("patch", *arguments), *parts)
    assert contents(work) == before


def test_a_full_disk_is_one_line(run: Run, work: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = contents(work)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        results = [run("patch", "apply", "base", "p", "out"), run("patch", "create", "base", "new", "q")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for result, name in zip(results, ("out", "q"), strict=True):
        refused(result, "File too large", f"'{name}'")
    assert contents(work) == before


SLOW = """
import time
from fgunlearn.patch import applying
walk_all = applying.walk_all

def slow(*arguments):
    walk_all(*arguments)
    print("at work", flush=True)
    time.sleep(60)

applying.walk_all = slow
from fgunlearn.cli import main
main()
"""


def test_ctrl_c_ends_it_with_status_130_and_without_litter(work: Path) -> None:
    (work / "tmp").mkdir()
    before = contents(work)
    process = start(work, "patch", "apply", "base", "p", "out", code=SLOW)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    press_ctrl_c(process)
    assert contents(work) == before


def test_unlearn_leaves_the_patch_of_what_it_did(run: Run, folder: Path) -> None:
    given = {"audit": None, "retrained": None, "relearn_steps": None, "save_selection": None}
    _done(run(*unlearn(**given, patch="p", strategy="random_topk", seed=5)))
    patch.apply("model.safetensors", "p", "applied")
    out = load_file("out.safetensors")
    assert {name: held.tobytes() for name, held in load_file("applied").items()} == {
        name: held.tobytes() for name, held in out.items()
    }
    told = patch.inspect("p").metadata
    assert told["strategy"] == {"kind": "RandomTopK", **told["strategy"], "ratio": 0.3, "seed": 5}
    assert told["repair"]["kind"] == "Repair"
    assert told["versions"]["fgunlearn"] == fg.__version__
    refused(run(*unlearn(**given, patch="model.safetensors")), "--patch: model.safetensors is the file of --model")


def test_what_can_not_be_recorded_is_not_done(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "audit.json")

    monkeypatch.setattr("fgunlearn.cli.audit.record_patch", full)
    before = contents(work)
    refused(run("patch", "apply", "base", "p", "--in-place", "--audit", "audit.json"), "No space left on device")
    assert contents(work) == before


def test_no_name_in_a_file_can_pose_as_a_line_of_an_error(run: Run, work: Path) -> None:
    name = "a\nfgunlearn: all is well\x1b[31m"
    write(Path("odd"), {name: TENSORS["w"]})
    status, _, error = run("patch", "create", "odd", "base", "q")
    assert status == 2
    assert error.count("\n") == 1
    assert "\x1b" not in error
