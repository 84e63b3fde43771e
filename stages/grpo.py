"""Group-relative policy optimisation with verifiable rewards."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cpt.errors import PlanError, RecipeError
from cpt.hooks.card import Card
from cpt.recipe import StageSpec, folder_of
from cpt.rows import Row, RowFormat
from stages.base import Encoded, Material, StageKind
from stages.dpo import check_adapter, check_named_reference, encode_prompts
from stages.rewards import check_reward, load_reward, reward_content
from stages.trl_fields import rollout_size

if TYPE_CHECKING:
    from torch import Tensor


class GRPO(StageKind):
    """TRL's GRPOTrainer. `batch_size` counts completions; TRL's default beta of 0 has no reference at all."""

    name: ClassVar[str] = "grpo"
    config: ClassVar[str] = "GRPOConfig"
    formats: ClassVar[tuple[RowFormat, ...]] = ("prompt",)
    roles: ClassVar[frozenset[str]] = frozenset({"reference"})
    reduction: ClassVar[Literal["token", "sequence"]] = "sequence"
    card: ClassVar = Card(
        family="objective",
        formula="""A_i  = (r_i - mean(r)) / std(r) within the num_generations answers of a prompt
loss = - mean_t min(w_t A, clip(w_t, 1 - epsilon, 1 + epsilon) A) + beta * KL(policy || reference)
w_t the ratio of the policy to the one that sampled; loss_type says over what the mean runs""",
        when="Where a program can tell right from wrong. Set beta (0.01 to 0.04): its default, 0, "
        "has no reference and no anchor.",
        cost="Sampling num_generations answers per prompt, which takes most of the time, then "
        "forward and backward over them; with beta also the reference's forward.",
        state="2 (the reference in bf16; 4 in fp32; 0 with a lora hook or with beta 0)",
        fails="The policy finds what the reward did not mean. A group of equal rewards teaches "
        "nothing. The KL is measured on these prompts only and says nothing of other tasks.",
        evidence="production-validated",
        sources=(
            "Shao et al. 2024, arXiv:2402.03300, eq. 3",
            "methods.md A23, B15, B16",
        ),
    )

    def check(self, spec: StageSpec, where: str) -> None:
        """Rewards exist; a named reference is used; groups divide the batch."""
        if not spec.rewards:
            raise RecipeError(
                f"{where}: rewards is missing: name one, such as exact_match, or module:function"
            )
        for reward in spec.rewards:
            check_reward(reward, where)
        check_named_reference(self, spec, where)
        generations = int(spec.train.get("num_generations", 8))
        if int(spec.train.get("batch_size", 8)) % generations:
            raise PlanError(
                f"{where}: train.batch_size: counts completions and must be a multiple of num_generations "
                f"{generations}, not {spec.train.get('batch_size', 8)}"
            )

    def uses(self, role: str, spec: StageSpec) -> bool:
        """The KL term to the reference has the weight beta, which is 0 unless it is set."""
        return super().uses(role, spec) and float(self.setting(spec, "beta")) != 0

    def reward_contents(self, spec: StageSpec, where: str) -> list[str]:
        """Names, and the code of a person's own rewards."""
        return [reward_content(reward, where) for reward in spec.rewards]

    def rows_per_step(self, spec: StageSpec) -> int:
        """Prompts per step: completions over generations per prompt, each used for num_iterations steps."""
        return int(spec.train.get("batch_size", 8)) // int(spec.train.get("num_generations", 8))

    def uses_of_a_row(self, spec: StageSpec) -> int:
        """A rollout is used `num_iterations` times."""
        return int(spec.train.get("num_iterations", 1))

    def rows_until(self, spec: StageSpec, step: int) -> int:
        """Prompts that were answered by then: those of every rollout that has begun.

        TRL answers the prompts of several steps at once where `generation_batch_size` says so, and shuffles
        the answers over these steps.
        """
        train = {"batch_size": 8, **spec.train}
        num_steps = rollout_size(train) // int(train["batch_size"]) * self.uses_of_a_row(spec)
        num_prompts = rollout_size(train) // int(train.get("num_generations", 8))
        return -(-step // num_steps) * num_prompts

    def encode(self, rows: list[Row], tokenizer: Any, spec: StageSpec) -> Encoded:
        """TRL tokenises prompts itself; other columns go to the rewards."""
        return Encoded(rows, [len(ids) for ids in encode_prompts(rows, tokenizer, len(rows))])

    def trainer(self, material: Material) -> Any:
        """GRPOTrainer; it reloads its reference from `config._name_or_path`: the declared folder."""
        from trl import GRPOTrainer

        from cpt.hooks.backbone import bare_model
        from cpt.hooks.trainer import hooked

        if self.uses("reference", material.job.spec):
            check_adapter(material)
        material.config.shuffle_dataset = False
        bare_model(material.model).config._name_or_path = str(material.reference)
        folders = [folder_of(material.job.spec.file)] if material.job.spec.file else []
        return hooked(GRPOTrainer)(
            model=material.model,
            reward_funcs=[load_reward(name, folders) for name in material.job.spec.rewards],
            args=material.config,
            train_dataset=material.train,
            eval_dataset=material.held_out,
            processing_class=material.tokenizer,
        )

    def loss_mask(self, inputs: Mapping[str, Any], forward: Mapping[str, Any]) -> "Tensor":
        """Position t counts when token t+1 is a token of the completion."""
        import torch

        completion = inputs["completion_mask"].float()
        before = forward["input_ids"].shape[1] - completion.shape[1] - 1
        return torch.nn.functional.pad(completion, (before, 1))

    def prompts(self, rows: list[Row], tokenizer: Any, most: int) -> list[list[int]]:
        """The prompts."""
        return encode_prompts(rows, tokenizer, most)
