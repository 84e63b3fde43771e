"""The toy worlds of protocols TA and TB (`methods.md` 7.2): tokens, tables of facts, a Markov language.

TA: 3 tasks of 64 facts. `[BOS, task, a, b, =]` -> value, the same 8 x 8 keys in every task, values drawn
independently out of 16: what one task knows another one overwrites. TB: a general language, of which the
model knows everything, and a skill written with the same tokens.
"""

import itertools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL = ("<pad>", "<bos>", "<eos>")
TASKS, KEYS, VALUES = 3, 8, 16
WORDS, LENGTH, SUCCESSORS, FACTS = 32, 16, 4, 96

Fact = tuple[str, str]


@dataclass(frozen=True)
class Language:
    """A sparse first-order Markov chain over WORDS tokens: each has SUCCESSORS followers."""

    followers: list[list[int]]
    shares: list[list[float]]

    @property
    def entropy(self) -> float:
        """Nats per token of the chain's steps, averaged evenly over its states."""
        rows = [-sum(p * math.log(p) for p in row) for row in self.shares]
        return sum(rows) / len(rows)

    def text(self, source: random.Random) -> str:
        """One text of LENGTH tokens."""
        word = source.randrange(WORDS)
        words = [word]
        while len(words) < LENGTH:
            (word,) = source.choices(self.followers[word], self.shares[word])
            words.append(word)
        return " ".join(f"w{word}" for word in words)


def language(seed: int) -> Language:
    """The language of a seed."""
    source = random.Random(f"{seed}/language")
    followers = [source.sample(range(WORDS), SUCCESSORS) for _ in range(WORDS)]
    shares = []
    for _ in range(WORDS):
        drawn = [source.expovariate(1.0) + 0.05 for _ in range(SUCCESSORS)]
        shares.append([part / sum(drawn) for part in drawn])
    return Language(followers, shares)


def facts_of_tasks(seed: int) -> list[list[Fact]]:
    """TA: of each task, (prompt, answer) of its 64 facts."""
    source = random.Random(f"{seed}/facts")
    keys = list(itertools.product(range(KEYS), range(KEYS)))
    return [
        [(f"t{task} a{a} b{b} =", f" v{source.randrange(VALUES)}") for a, b in keys]
        for task in range(TASKS)
    ]


def skill(seed: int) -> list[Fact]:
    """TB: FACTS facts `x y z = answer` in words of the language.

    The sign is no word: what follows it, the answer and EOS, contradicts no text. Without it a skill of which
    every sft stage teaches the end, too, says that any text ends after four words (naive: +2.6 nats instead
    of the +0.7 of `methods.md` 7.3, whose reference implementation has no EOS).
    """
    source = random.Random(f"{seed}/skill")
    prompts = source.sample(list(itertools.product(range(WORDS), repeat=3)), FACTS)
    return [
        (" ".join([*(f"w{word}" for word in prompt), "="]), f" w{source.randrange(WORDS)}")
        for prompt in prompts
    ]


def tokenizer() -> Any:
    """One token a word, BOS in front, EOS known."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, "="]
    words += [f"t{task}" for task in range(TASKS)]
    words += [f"{side}{key}" for side in "ab" for key in range(KEYS)]
    words += [f"v{value}" for value in range(VALUES)]
    words += [f"w{word}" for word in range(WORDS)]
    own = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<pad>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", words.index("<bos>"))]
    )
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token=pad, bos_token=bos, eos_token=eos
    )


def model(seed: int, words: Any) -> Any:
    """A Llama of 2 layers, 64 wide, 4 heads: about 0.1 M weights, random."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    return LlamaForCausalLM(config)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Rows on disk; returns their data config."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def as_rows(facts: list[Fact]) -> list[dict[str, Any]]:
    """Facts as rows of prompt and completion."""
    return [{"prompt": prompt, "completion": answer} for prompt, answer in facts]
