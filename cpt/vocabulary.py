"""Whether declared tokens change a model's shapes: a vocabulary may be padded beyond its tokenizer's."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt.model_spec import ModelSpec


@dataclass(frozen=True)
class Vocabulary:
    """What is known of a base model before it is loaded.

    Attributes:
        tokens: the tokenizer's, as far as they are known.
        num_free: embeddings that no token has.
    """

    tokens: frozenset[str]
    num_free: int

    def growth(self, added: Iterable[str]) -> int:
        """Embeddings that `apply_change` appends for these tokens, in one call or in several."""
        return max(len({*added} - self.tokens) - self.num_free, 0)


def of_model(spec: ModelSpec) -> Vocabulary | None:
    """A recipe's base model without what the recipe adds; None where its files are not here to look at."""
    if spec.random:  # its embeddings are made for its tokenizer
        return Vocabulary(frozenset({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}), 0)
    folder = Path(str(spec.path)).expanduser() if spec.is_local else _cached(spec)
    try:
        return _of_folder(folder) if folder else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged, or of another form: whoever loads it says so


def _of_folder(folder: Path) -> Vocabulary:
    config = json.loads((folder / "config.json").read_text())
    rows = config.get("text_config", config)["vocab_size"]
    tree = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words: Any = tree["model"]["vocab"]  # token -> number, or [token, score] pairs
    tokens = {*words} if isinstance(words, dict) else {word for word, _ in words}
    tokens |= {token["content"] for token in tree.get("added_tokens", [])}
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        more = json.loads(settings.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        tokens |= {token["content"] for token in more.values()}
    return Vocabulary(frozenset(tokens), max(rows - len(tokens), 0))


def _cached(spec: ModelSpec) -> Path | None:
    if not spec.path:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec.path, "tokenizer.json", revision=spec.revision)
    return Path(found).parent if isinstance(found, str) else None
