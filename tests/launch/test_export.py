"""`cpt export`: a folder that opens alone, names nothing of this machine, and is whole or not there."""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt.checkpoint import digests_of_stage
from cpt.errors import RecipeError, StoreError
from cpt.manifest import Ancestor, Manifest
from cpt.store import Store
from launch import cli
from launch.export import push, write
from launch.public import check_public, public

Call = Callable[..., tuple[int, str, str]]
SECRET = "hf_" + "a1B2" * 8


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["export", "--runs", str(tmp_path / "runs"), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A finished stage with an adapter, whose settings name places of this machine."""
    store = Store(tmp_path / "runs")
    base = store.partial("base-1")
    (base / "checkpoint").mkdir(parents=True)
    Manifest(id="base-1", kind="base", name="base", inputs={"path": "org/model"}).write(base)
    store.publish("base-1")
    partial = store.partial("sft-1")
    texts = {
        "checkpoint/config.json": {
            "model_type": "llama",
            "_name_or_path": str(base / "checkpoint"),
        },
        "checkpoint/tokenizer.json": {"vocab": {str(Path.home()): 1}},  # a word is no place
        "adapter/adapter_config.json": {
            "r": 4,
            "base_model_name_or_path": str(store.stage("base-1") / "checkpoint"),
        },
    }
    for name, tree in texts.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text(json.dumps(tree))
    for name in ("checkpoint/model.safetensors", "adapter/adapter_model.safetensors"):
        (partial / name).write_text(f"weights of {name}")
    (partial / "exemplars.jsonl").write_text('{"text": "a row"}\n')
    (partial / "metrics.jsonl").write_text("{}\n")
    Manifest(
        id="sft-1",
        kind="sft",
        name="sft",
        parents={"parent": "base-1"},
        past=(Ancestor("base", "base-1", "base", "../base-1"),),
        hooks=({"name": "kl", "settings": {"beta": 0.1, "path": "/data/secret place/x.jsonl"}},),
        data=({"name": "/home/ann/rows.jsonl", "rows": 3},),
        code={"commit": "1234", "dirty": False},
        files=digests_of_stage(partial),
        num_steps=8,
    ).write(partial)
    return store.publish("sft-1")


def texts_of(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: path.read_text() for path in files}


def test_a_plain_folder_with_its_card(stage: Path, call: Call, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model"
    code, out, err = call("sft-1", "--to", str(target))
    assert (code, err) == (0, "")
    assert out.startswith(f"{target}: 5 files, ")
    found = texts_of(target)
    assert sorted(found) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "provenance.json",
        "tokenizer.json",
    ]
    assert found["model.safetensors"] == "weights of checkpoint/model.safetensors"
    assert json.loads(found["config.json"])["model_type"] == "llama"
    told = json.loads(found["provenance.json"])
    assert (told["id"], told["num_steps"], told["part"]) == ("sft-1", 8, "checkpoint")
    assert told["past"] == [{"name": "base", "kind": "base", "id": "base-1"}]
    assert told["data"][0]["name"] == "rows.jsonl"
    head, body = found["README.md"].removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    assert "# sft (sft-1)" in body
    assert "`base-1`" in body
    assert "rows.jsonl: 3 rows" in body
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_no_place_name_or_secret_of_this_machine_goes_out(
    stage: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for more in ([], ["--adapter"]):
        target = tmp_path / f"out{len(more)}"
        assert call("sft-1", "--to", str(target), *more)[0] == 0
        for name, text in texts_of(target).items():
            if name == "tokenizer.json":
                continue
            for private in (str(tmp_path), "/home/", "/data/", SECRET):
                assert private not in text, (name, private)
            assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text), name


@pytest.mark.parametrize("name", ["README.md", "config.json", "chat_template.jinja"])
def test_what_names_a_secret_or_a_place_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setattr("socket.gethostname", lambda: "node-17-b")
    words = {
        f"{SECRET} x": "what looks like a secret",
        "https://ann:pw@example.org/": "what looks like a secret",
        "key 0123456789abcdef": "the value of the environment's WANDB_API_KEY",
        f'"{Path.cwd()}/runs"': "the place /",
        "on node-17-b.": "the name of this machine, node-17-b,",
    }
    for text, what in words.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(StoreError) as failed:
            check_public(tmp_path)
        assert str(failed.value).startswith(f"{name}: holds {what}")
        assert SECRET not in str(failed.value)
        assert "0123456789abcdef" not in str(failed.value)
    (tmp_path / name).write_text(f"https://huggingface.co/org/model {Path.home()}x org/model 3/4")
    check_public(tmp_path)


def test_places_lose_their_folders_and_addresses_do_not() -> None:
    texts = {
        "cpt run /home/ann/x/chain.yaml seed=3": "cpt run chain.yaml seed=3",
        "../../etc/passwd ./a/b ~/c/d": "passwd b d",
        "recipes/smoke/chain.yaml": "recipes/smoke/chain.yaml",
        "https://example.org/a/b and org/model": "https://example.org/a/b and org/model",
        "loss/grad 3/4 a / b": "loss/grad 3/4 a / b",
        '"/data/x.jsonl"': '"x.jsonl"',
    }
    assert {text: public(text) for text in texts} == texts
    assert public({"/a/b": ["/c/d", 3, None]}) == {"b": ["d", 3, None]}


def test_an_adapter_names_its_base_as_the_hub_does(stage: Path, tmp_path: Path) -> None:
    write(stage, tmp_path / "out", "adapter")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config == {"r": 4, "base_model_name_or_path": "org/model"}
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_rows_go_out_only_when_asked_for(stage: Path, call: Call, tmp_path: Path) -> None:
    assert call("sft-1", "--to", str(tmp_path / "a"))[0] == 0
    assert call("sft-1", "--to", str(tmp_path / "b"), "--with-rows")[0] == 0
    assert not (tmp_path / "a" / "exemplars.jsonl").exists()
    assert (tmp_path / "b" / "exemplars.jsonl").read_text() == '{"text": "a row"}\n'


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_not_exported(stage: Path, tmp_path: Path, damage: str) -> None:
    path = stage / "checkpoint" / "model.safetensors"
    if damage == "flip":
        path.write_text("W" + path.read_text()[1:])
    elif damage == "cut":
        os.truncate(path, 3)
    else:
        path.unlink()
    with pytest.raises(StoreError, match=r"model\.safetensors: is (damaged|missing).*run again"):
        write(stage, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_folder_that_is_there_stays_as_it_is(stage: Path, call: Call, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    assert call("sft-1", "--to", str(target))[0] == 0  # it was empty
    before = texts_of(target)
    code, _, err = call("sft-1", "--to", str(target))
    assert code == 2
    assert "is there already; name a new folder" in err
    assert texts_of(target) == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_nothing(
    stage: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with monkeypatch.context() as patched:

        def fail(folder: Path) -> None:
            raise error

        patched.setattr("launch.export.sync", fail)
        code, _, err = call("sft-1", "--to", str(tmp_path / "out"))
        assert code == (1 if isinstance(error, OSError) else 4)
        assert ("the disk is full" in err) is isinstance(error, OSError)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_what_a_killed_export_left_goes_with_the_next(stage: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = socket.gethostname()
    ends = (f"{here}-{dead.pid}", f"{here}-{os.getppid()}", f"elsewhere-{dead.pid}")
    left = [tmp_path / f".out.cpt-export-{end}" for end in ends]
    for folder in left:
        folder.mkdir()
    write(stage, tmp_path / "out")
    # The second one is at work, and whether the third is nobody knows here.
    assert [folder.exists() for folder in left] == [False, True, True]


def test_two_exports_to_one_folder_do_not_mix(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(folder: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()

    monkeypatch.setattr("launch.export.sync", late)
    with pytest.raises(RecipeError, match="out: came to be there meanwhile; name a new folder"):
        write(stage, tmp_path / "out")
    assert texts_of(tmp_path / "out") == {"theirs": ""}
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "out"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sft-2"], "no finished stage 'sft-2'; did you mean 'sft-1'?"),
        (["base-1"], "left no checkpoint"),
        (["sft-1", "--private"], "name --push REPO too"),
    ],
)
def test_what_cannot_be_exported_is_bad_input(
    stage: Path, call: Call, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, err = call(*arguments, "--to", str(tmp_path / "out"))
    assert code == 2
    assert message in err


def test_a_stage_without_an_adapter_says_so(stage: Path, tmp_path: Path) -> None:
    shutil.rmtree(stage / "adapter")
    Manifest(id="sft-1", kind="sft", name="sft", files=digests_of_stage(stage)).write(stage)
    with pytest.raises(RecipeError, match="left no adapter; leave --adapter out"):
        write(stage, tmp_path / "out", "adapter")


class Hub:
    """A stand-in for `huggingface_hub.HfApi`."""

    said: list[tuple[str, Any]]
    error: Exception | None = None
    lost: int = 0

    def create_repo(self, repo_id: str, **more: Any) -> str:
        if Hub.error is not None:
            raise Hub.error
        Hub.said.append((repo_id, more))
        return f"https://hub/{repo_id}"

    def upload_folder(self, **more: Any) -> None:
        if Hub.lost:
            Hub.lost -= 1
            raise ConnectionError("connection reset")
        Hub.said.append(("upload", {**more, "files": sorted(os.listdir(more["folder_path"]))}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.said, Hub.error, Hub.lost = [], None, 0
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return Hub


def test_the_hub_gets_the_folder(stage: Path, call: Call, tmp_path: Path, hub: type[Hub]) -> None:
    target = tmp_path / "out"
    code, out, _ = call("sft-1", "--to", str(target), "--push", "me/model", "--private")
    assert code == 0
    assert out.splitlines()[-1] == "uploaded: https://hub/me/model"
    (repository, how), (_, upload) = hub.said
    assert (repository, how) == ("me/model", {"private": True, "exist_ok": True})
    assert upload["repo_id"] == "me/model"
    assert upload["files"] == sorted(os.listdir(target))
    assert "token" not in upload


def test_a_refusal_of_the_hub_keeps_the_folder(
    stage: Path, call: Call, tmp_path: Path, hub: type[Hub]
) -> None:
    for number, error in enumerate((ConnectionError("no network\nmore"), ValueError("bad name"))):
        hub.error = error
        target = tmp_path / f"out{number}"
        code, _, err = call("sft-1", "--to", str(target), "--push", "me/model")
        assert code == 1
        assert "me/model: cannot be uploaded to: " in err
        assert f"hf upload me/model {target}" in err
        assert (target / "README.md").is_file()


def test_an_upload_that_is_cut_off_is_tried_again(
    stage: Path, call: Call, tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[float]()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("time.sleep", waited.append)
    hub.lost = 2
    code, _, err = call("sft-1", "--to", str(tmp_path / "out"), "--push", "me/model")
    assert code == 0
    assert waited == [2.0, 4.0]
    assert "me/model: connection reset; trying again in 2 s (1 of 5)" in err
    assert [what for what, _ in hub.said] == ["me/model", "upload"]


def test_without_a_network_the_real_client_says_so(tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is set for all tests."""
    with pytest.raises(StoreError, match="me/model: cannot be uploaded to: "):
        push(tmp_path, "me/model", "sft-1", False)


@pytest.mark.chain
class TestOfAChain:
    def test_it_opens_alone_and_its_card_has_the_scores(
        self, finished: Any, tmp_path: Path
    ) -> None:
        """Of a stage in the middle the card ends with it."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        for name in ("sft", "dpo"):
            target = tmp_path / name
            write(finished.stage(name), target)
            model = AutoModelForCausalLM.from_pretrained(target)
            assert AutoTokenizer.from_pretrained(target)("a")["input_ids"]
            own = AutoModelForCausalLM.from_pretrained(finished.stage(name) / "checkpoint")
            for one, other in zip(model.parameters(), own.parameters(), strict=True):
                assert one.equal(other)
            text = (target / "README.md").read_text()
            assert "| this model |" in text
            assert f"| {name} |" in text
            assert ("| dpo |" in text) is (name == "dpo")
            assert "| grpo |" not in text
            for each in texts_of_small(target).values():
                assert str(finished.runs) not in each

    def test_an_adapter_opens_with_peft(self, finished: Any, tmp_path: Path) -> None:
        from peft import PeftConfig

        write(finished.stage("dpo"), tmp_path / "adapter", "adapter")
        config = PeftConfig.from_pretrained(str(tmp_path / "adapter"))
        assert config.base_model_name_or_path == finished.ids["sft"]


def texts_of_small(folder: Path) -> dict[str, str]:
    kinds = (".json", ".md", ".jinja")
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix in kinds}
