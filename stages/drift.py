"""How far a model has drifted from the base model, by two numbers that cost a few forward passes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpt.data import Rows
from cpt.generators import untouched_generators
from cpt.hooks.context import StageContext
from cpt.old_rows import encoded, open_source
from cpt.past import Past
from cpt.rehearsal import Example
from cpt.rows import Row
from cpt.watch import WatchSpec
from stages.base import Job, StageKind
from stages.opening import load_earlier

if TYPE_CHECKING:
    from torch import Tensor

#: Tokens of a prompt that is the beginning of a text; those that the base model writes behind a prompt; those
#: of a general text: at most.
PROMPT, ANSWER, TEXT = 64, 32, 256
#: Sequences of a forward pass.
BATCH = 8


class Drift:
    """What the base model did, kept small: its answers, its last hidden states there, and its head.

    kl = E_x (1 / T) sum_t KL(base || model) at (x, y_<t), y drawn from the base model, exact over its
    vocabulary: the forward KL on new prompts that predicts forgetting where nothing anchors a model; where
    something does, the relation weakens.
    general_loss = mean of -log p over the tokens of general texts.

    Source: Shenfeld et al. 2025, arXiv:2509.04259 (RL's Razor); `methods.md` P056.
    """

    def __init__(
        self,
        base: Any,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[Example],
        seed: int,
    ) -> None:
        """Ask the base model once; it is not needed afterwards, but for its head.

        Args:
            base: in evaluation mode.
            prompts: token ids.
            texts: tokens of general texts.
        """
        import torch

        from cpt.tokens import OutputHead

        self.head = OutputHead(base)
        self.answered: list[tuple[Tensor, Tensor, int]] = []
        self.texts = [example.input_ids[:TEXT] for example in texts]
        with untouched_generators(), torch.no_grad():
            torch.manual_seed(seed)
            for start in range(0, len(prompts), BATCH):
                self._answer(base, tokenizer, prompts[start : start + BATCH])
            self.base_loss = self._general_loss(base) if self.texts else None

    def look(self, model: Any) -> dict[str, float]:
        """The numbers of a model, which is left in evaluation mode; the base model has kl 0."""
        import torch

        found: dict[str, float] = {}
        with torch.no_grad():
            if self.answered:
                found["kl"] = self._kl(model)
            if self.base_loss is not None:
                found["general_loss"] = loss = self._general_loss(model)
                found["general_loss_rise"] = loss - self.base_loss
        return found

    def _answer(self, base: Any, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> None:
        import torch
        from transformers import GenerationConfig

        # What a model brings to answer people with (Qwen2.5: repetition_penalty 1.1, top_p 0.8) also fills
        # what a call leaves open: transformers/generation/utils.py, _prepare_generation_config.
        own, base.generation_config = base.generation_config, GenerationConfig()
        ids, mask = _padded(prompts, tokenizer.pad_token_id or 0, base.device, left=True)
        written = base.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=ANSWER,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        base.generation_config = own
        for prompt, row in zip(prompts, written, strict=True):
            answer = row[ids.shape[1] :].tolist()
            if tokenizer.eos_token_id in answer:
                answer = answer[: answer.index(tokenizer.eos_token_id) + 1]
            whole = torch.tensor([[*prompt, *answer]], device=base.device)
            self.answered.append((whole, self._states(base, whole, len(prompt)), len(prompt)))

    def _kl(self, model: Any) -> float:
        import torch

        from cpt.hooks.backbone import bare_model
        from cpt.tokens import OutputHead, divergence

        head, total = OutputHead(bare_model(model)), 0.0
        for whole, there, prompt in self.answered:
            log_r = torch.log_softmax(self.head(there).float(), dim=-1)
            logits = head(self._states(model, whole, prompt)).float()
            # Tokens that were added since have no probability under the base model.
            log_s = torch.log_softmax(logits, dim=-1)[:, : log_r.shape[1]]
            total += float(divergence(log_s, log_r, "forward")[0].mean())
        return total / len(self.answered)

    def _states(self, model: Any, whole: "Tensor", prompt: int) -> "Tensor":
        """Last hidden states [T, H] that predict what stands behind the prompt."""
        from cpt.hooks.backbone import bare_model

        backbone = bare_model(model).base_model
        states: Tensor = backbone(input_ids=whole, use_cache=False).last_hidden_state
        return states[0, prompt - 1 : -1]

    def _general_loss(self, model: Any) -> float:
        import torch

        from cpt.hooks.backbone import bare_model

        bare = bare_model(model)
        total, count = 0.0, 0
        for start in range(0, len(self.texts), BATCH):
            rows = self.texts[start : start + BATCH]
            ids, mask = _padded(rows, 0, bare.device, left=False)
            logits = bare(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            labels = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
            total += float(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), labels.flatten(), reduction="sum"
                )
            )
            count += int(mask[:, 1:].sum())
        return total / max(count, 1)


def drift_of(
    spec: WatchSpec,
    job: Job,
    kind: StageKind,
    before: Past,
    rows: list[Row],
    tokenizer: Any,
    ctx: StageContext,
) -> Drift | None:
    """The signals of a stage, with the base model asked; None where neither is measured.

    Args:
        rows: of the stage, whose prompts are answered; of texts, their beginnings.

    Raises:
        DataError: the general text cannot be read.
    """
    assert ctx.encode is not None
    prompts = kind.prompts(rows, tokenizer, spec.prompts) if spec.prompts else []
    if not prompts:
        whole = [example.input_ids for example in ctx.encode(rows[: spec.prompts])]
        prompts = [ids[: min(PROMPT, max(1, len(ids) // 2))] for ids in whole]
    texts: list[Example] = []
    if spec.text is not None:
        opened = open_source(spec.text, ("text",), spec.texts, f"{ctx.seed}/watch")
        assert isinstance(opened, Rows), "of a data set a part is read"
        _, texts = encoded(opened.rows, "watch.text", ctx)
    if not prompts and not texts:
        return None
    base = next((stage for stage in before if stage.kind == "base"), before[0])
    model = load_earlier(base, job, ctx.world.device).eval()
    known = model.get_input_embeddings().weight.shape[0]  # tokens may have been added since
    asked = [prompt for prompt in prompts if max(prompt) < known]
    read = [text for text in texts if max(text.input_ids) < known]
    lost = len(prompts) - len(asked) + len(texts) - len(read)
    if lost:
        ctx.say(
            f"watch: {lost} of {len(prompts) + len(texts)} prompts and texts have tokens that {base.name} "
            f"does not know, and are left out of what it is compared on"
        )
    return Drift(model, tokenizer, asked, read, job.seed) if asked or read else None


def _padded(
    rows: Sequence[Sequence[int]], pad: int, device: Any, left: bool
) -> "tuple[Tensor, Tensor]":
    """Token ids [B, T] and where they are, 1, or padding, 0."""
    import torch

    width = max(map(len, rows))
    empty = [[pad] * (width - len(row)) for row in rows]
    none = [[0] * len(gap) for gap in empty]
    filled = [
        ([*gap, *row], zero + [1] * len(row)) if left else ([*row, *gap], [1] * len(row) + zero)
        for row, gap, zero in zip(rows, empty, none, strict=True)
    ]
    ids, mask = zip(*filled, strict=True)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
