"""A language model without context, for closed forms: the last hidden state is the token's embedding."""

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cpt.hooks.backbone import FrozenReference
from cpt.hooks.context import StageContext
from cpt.manifest import Manifest
from cpt.past import Past, PastStage
from cpt.rehearsal import IGNORED, Example
from cpt.tokens import Tokens
from cpt.world import World

VOCABULARY, WIDTH = 13, 6


class Toy(nn.Module):
    """Embedding and head, with as much of a transformers model as hooks use."""

    def __init__(self, seed: int, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        self.head.weight.data *= 3  # now sure, now not
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(model_type="toy"))

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def base_model(self, input_ids: Tensor, use_cache: bool, **more: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.embed(input_ids))

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def logits(self, example: Example) -> Tensor:
        """[T, V] of one example."""
        found: Tensor = self.head(self.embed(torch.tensor(example.input_ids)))
        return found


def rows(number: int, first: int = 0, prompt: int = 2) -> list[dict[str, Any]]:
    """Rows of many lengths, whose first tokens have no labels."""
    return [
        {"ids": [(7 * n + 3 * t * t + t) % VOCABULARY for t in range(4 + n % 5)], "prompt": prompt}
        for n in range(first, first + number)
    ]


def encode(given: Sequence[dict[str, Any]]) -> list[Example]:
    """Rows as `rows` makes them -> examples."""
    return [
        Example(row["ids"], [IGNORED] * row["prompt"] + row["ids"][row["prompt"] :])
        for row in given
    ]


class ToyPast:
    """Stages on disk, whose models are toys: `base` with seed 0, and others with theirs."""

    def __init__(self, folder: Path, stages: dict[str, tuple[int, list[dict[str, Any]]]]) -> None:
        import json

        self.models: dict[str, Toy] = {"base": Toy(0)}
        self.loaded: list[str] = []
        self.made: dict[str, dict[str, Tensor]] = {}
        past = [PastStage("base", "base-0", "base", None, "toy")]
        for name, (seed, left) in stages.items():
            self.models[name] = Toy(seed)
            place = folder / name
            place.mkdir()
            (place / "exemplars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in left))
            Manifest(id=f"{name}-1", kind="sft", name=name).write(place)
            past.append(PastStage(name, f"{name}-1", "sft", place, str(place / "checkpoint")))
        self.past = Past(tuple(past))

    def load(self, stage: PastStage) -> Any:
        """A copy of a stage's model."""
        self.loaded.append(stage.name)
        return copy.deepcopy(self.models[stage.name])

    def cached(self, key: object, make: Any) -> dict[str, Tensor]:
        """Made once."""
        from cpt.ids import short_hash

        name = short_hash(key)
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def context(self, kind: str = "sft", world: World | None = None) -> StageContext:
        """Of a stage on top of them."""
        return StageContext(
            kind,
            kind,
            ("messages", "text"),
            5,
            world or World(),
            "",
            reference=lambda stage: FrozenReference(self.load(stage)),
            encode=encode,
            load=self.load,
            cached=self.cached,
        )


def tokens_of(model: Toy, examples: Sequence[Example], part: tuple[int, int] = (0, 1)) -> Tokens:
    """A micro-batch that is the whole optimizer step, as the trainer shows it to hooks."""
    from cpt.rehearsal import collate

    number = sum(example.num_labels for example in examples)
    batch = collate(examples, "cpu", 1 / number)
    every = sum(example.num_predictions for example in examples)
    hidden = model.base_model(**batch.forward, use_cache=False).last_hidden_state
    return Tokens(batch.weight, batch.forward, hidden, part, number, every)
