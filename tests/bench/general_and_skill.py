"""Protocol TB (`methods.md` 7.2): one pretrain stage on a language, then one sft stage on a skill.

The first is shared by all methods. Measured: task accuracy, the rise of the loss on held-out language in nats
per word, the forward KL(before || after) on the skill's prompts, and ||w - w0||.
"""

import random
import shutil
from pathlib import Path
from typing import Any

from tests.bench import toy
from tests.bench.protocols import LANGUAGE_STEPS, SKILL_STEPS, Method, Protocol, slug

LANGUAGE_ROWS, HELD_OUT_ROWS = 4000, 256


class GeneralAndSkill(Protocol):
    """Protocol TB."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.language = toy.language(seed)
        source = random.Random(f"{seed}/texts")
        texts = [self.language.text(source) for _ in range(LANGUAGE_ROWS + HELD_OUT_ROWS)]
        self.held_out = texts[LANGUAGE_ROWS:]
        self.texts = toy.write_rows(self.general, [{"text": t} for t in texts[:LANGUAGE_ROWS]])
        self.facts = toy.skill(seed)
        self.data = toy.write_rows(folder / "skill.jsonl", toy.as_rows(self.facts))

    def measure(self, method: Method) -> dict[str, float]:
        """Train the skill with a method and measure what it cost."""
        import torch

        name = "language" if not method.first else f"{slug(method.name)}-language"
        start = self.train(
            "language", "pretrain", self.base, self.texts, LANGUAGE_STEPS, method.first, output=name
        )
        before = self.model(start)
        steps = int((method.train or {}).get("max_steps", SKILL_STEPS))
        stage = self.train(
            "skill", "sft", start, self.data, steps, method.hooks, method.train, slug(method.name)
        )
        after = self.model(stage)
        prompts = torch.tensor([self.words(prompt)["input_ids"] for prompt, _ in self.facts])
        with torch.no_grad():
            p = before(input_ids=prompts).logits.double().log_softmax(-1)
            q = after(input_ids=prompts).logits.double().log_softmax(-1)
        drift = sum(
            float((one.detach() - other.detach()).double().square().sum())
            for one, other in zip(after.parameters(), before.parameters(), strict=True)
        )
        result = {
            "task": self.accuracy(after, self.facts),
            "general": self._loss(after) - self._loss(before),
            "kl": float((p.exp() * (p - q)).sum(-1)[:, 1:].mean()),
            "drift": drift**0.5,
        }
        for folder in [stage, *([start] if method.first else [])]:
            shutil.rmtree(folder)
        return result

    def _loss(self, model: Any) -> float:
        """Nats per word of held-out language, among its words.

        The skill teaches that EOS follows an answer, as every sft stage does, and so after four words of any
        text; the reference implementation has no EOS. What is measured is which word follows.
        """
        import torch

        ids = torch.tensor([self.words(text)["input_ids"] for text in self.held_out])
        first = int(self.words.convert_tokens_to_ids("w0"))
        with torch.no_grad():
            logits = model(input_ids=ids).logits.double()[:, 1:-1, first : first + toy.WORDS]
        # The first word follows from nothing.
        return -float(logits.log_softmax(-1).gather(2, ids[:, 2:, None] - first).mean())
