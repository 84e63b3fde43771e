"""EWC on protocol TA in plain PyTorch, to tell what a difference to `methods.md` 7.3 comes from.

    python -m tests.bench.plain [--strength 10] [--seeds 3] [--no-eos]

The same facts, model, batches and optimizer as `tests.bench.methods`, without any of the product: a loop, a
penalty in the loss, a Fisher by one backward pass per example. With --no-eos only the answer is a label, as
in the reference; the product's sft stages teach the end of an answer too.
"""

import argparse
import random
from collections.abc import Sequence
from typing import Any

from tests.bench import toy
from tests.bench.protocols import TASK_STEPS, TRAIN


def main() -> None:
    """Print new and old accuracy of each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--strength", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-eos", action="store_true")
    given = parser.parse_args()
    for seed in range(given.seeds):
        new, old = _chain(seed, given.strength, not given.no_eos)
        print(f"seed {seed}: new {new:.3f}  old {old:.3f}", flush=True)


def _chain(seed: int, strength: float, with_eos: bool) -> tuple[float, float]:
    import torch

    words = toy.tokenizer()
    model = toy.model(seed, words)
    tables = [_encoded(words, facts, with_eos) for facts in toy.facts_of_tasks(seed)]
    anchors: list[tuple[list[Any], list[Any]]] = []
    for number, rows in enumerate(tables):
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        source, order = random.Random(f"{seed}/{number}"), list[int]()
        for _ in range(TASK_STEPS):
            while len(order) < int(str(TRAIN["batch_size"])):
                order += source.sample(range(len(rows)), len(rows))
            batch = torch.tensor([rows[order.pop()] for _ in range(32)])
            optimizer.zero_grad()
            loss = _loss(model, batch, with_eos)
            for place, fisher in anchors:
                for weight, anchor, held in zip(model.parameters(), place, fisher, strict=True):
                    loss = loss + strength / 2 * (held * (weight - anchor).square()).sum()
            loss.backward()
            optimizer.step()
        place = [weight.detach().clone() for weight in model.parameters()]
        anchors.append((place, _fisher(model, rows, with_eos)))
    scores = [_accuracy(model, rows, with_eos) for rows in tables]
    return scores[-1], sum(scores[:-1]) / (len(scores) - 1)


def _encoded(words: Any, facts: Sequence[toy.Fact], with_eos: bool) -> list[list[int]]:
    ends = [words.eos_token_id] if with_eos else []
    return [words(prompt + answer)["input_ids"] + ends for prompt, answer in facts]


def _loss(model: Any, batch: Any, with_eos: bool) -> Any:
    import torch

    num = 2 if with_eos else 1
    logits = model(input_ids=batch).logits[:, -num - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, -num:].flatten())


def _fisher(model: Any, rows: Sequence[list[int]], with_eos: bool) -> list[Any]:
    """Labels drawn from the model, one backward pass per example, divided by the mean."""
    import torch

    num = 2 if with_eos else 1
    sums = [torch.zeros_like(weight) for weight in model.parameters()]
    for row in rows:
        logits = model(input_ids=torch.tensor([row])).logits[0, -num - 1 : -1]
        labels = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        for sum_, gradient in zip(
            sums, torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            sum_ += gradient.square()
    mean = sum(float(sum_.sum()) for sum_ in sums) / sum(sum_.numel() for sum_ in sums)
    return [sum_ / mean for sum_ in sums]


def _accuracy(model: Any, rows: Sequence[list[int]], with_eos: bool) -> float:
    import torch

    end = -2 if with_eos else -1
    batch = torch.tensor(rows)
    with torch.no_grad():
        guessed = model(input_ids=batch[:, :end]).logits[:, -1].argmax(-1)
    return float((guessed == batch[:, end]).double().mean())


if __name__ == "__main__":
    main()
