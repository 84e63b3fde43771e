"""Whether two checkpoints turn the same text into the same tokens, and the same chat into the same text."""

import json
from typing import Any

from cpt.errors import EdgeError

SAMPLE = "The quick brown fox, 42 + 7 = 49: na\u00efve caf\u00e9.\n\tdef f(x): return x\n"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
#: What people call the parts of a tokenizer -> their keys in `tokenizer.json`.
PARTS = {
    "added tokens": "added_tokens",
    "normalizer": "normalizer",
    "pre-tokenizer": "pre_tokenizer",
}


def traits(tokenizer: Any) -> dict[str, Any]:
    """All that decides which text becomes which tokens, and which chat becomes which text.

    Padding and truncation are not among it: every call of a tokenizer leaves its own behind.
    """
    found = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        **{name: getattr(tokenizer, name) for name in SPECIAL},
        "special tokens": sorted(tokenizer.all_special_tokens),
        "chat template": tokenizer.chat_template,
        "sample": tokenizer(SAMPLE)["input_ids"],
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # a tokenizer in Python has no parts to look at
        tree = json.loads(backend.to_str())
        found["merges"] = tree["model"].get("merges")
        found |= {name: tree[key] for name, key in PARTS.items()}
    return found


def check_texts(own: Any, other: Any, edge: str) -> None:
    """Two checkpoints give a token that both know the same number, and find the same tokens in a text.

    One of them may know further ones, and special tokens and chat template may differ: enough for a change of
    weights to be carried from one to the other.

    Raises:
        EdgeError: they do not; the message says in what they differ.
    """
    here, there = own.get_vocab(), other.get_vocab()
    odd = sorted(word for word in here.keys() & there.keys() if here[word] != there[word])
    smaller, larger = sorted((here, there), key=len)
    odd += sorted(smaller.keys() - larger.keys())
    parts = ("merges", "normalizer", "pre-tokenizer")
    mine, theirs = traits(own), traits(other)
    problems = [f"vocabulary: {odd[0]!r} is not the same token in both"] if odd else []
    problems += [f"{name}: not the same" for name in parts if mine.get(name) != theirs.get(name)]
    if problems:
        raise EdgeError(
            f"{edge}: {'; '.join(problems)}; weights of other vocabularies do not add up, so name "
            f"models that come from one tokenizer"
        )


def check_tokenizers(own: Any, other: Any, edge: str) -> None:
    """Two neighbouring checkpoints read and write the same text.

    Raises:
        EdgeError: they differ in vocabulary, merges, special tokens or chat template; the message says in
            what.
    """
    problems = []
    here, there = traits(own), traits(other)
    if len(own) != len(other):
        problems.append(f"vocabulary: {len(other)} tokens there, {len(own)} here")
    elif here["vocabulary"] != there["vocabulary"]:
        problems.append("vocabulary: the same number of tokens, but other ones")
    else:
        parts = ("merges", *PARTS)
        problems += [f"{name}: not the same" for name in parts if here.get(name) != there.get(name)]
        if not problems and here["sample"] != there["sample"]:
            problems.append("the same text gives other tokens")
    for name in SPECIAL:
        if here[name] != there[name]:
            problems.append(f"{name}: {there[name]!r} there, {here[name]!r} here")
    odd = {*here["special tokens"]} ^ {*there["special tokens"]}
    named = {value for side in (here, there) for value in (side[name] for name in SPECIAL)}
    if odd - named:
        problems.append(f"special tokens: {min(odd - named)!r} is one on one side only")
    if here["chat template"] != there["chat template"]:
        problems.append("chat template: it differs")
    if problems:
        raise EdgeError(
            f"{edge}: {'; '.join(problems)}; declare the change in the stage "
            f"(model: {{add_tokens, chat_template}})"
        )
