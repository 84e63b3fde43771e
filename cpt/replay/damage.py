"""Old examples drawn by how much they are damaged: mix-cd on a model that trains."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpt.rehearsal import Example, Rehearsal
from cpt.replay.collateral import Collateral, quantile_bins
from cpt.replay.embed import row_means

if TYPE_CHECKING:
    from torch import Tensor

NUM_BINS = 10
#: Nats per token by which a row's loss must exceed what it was before the stage to count as forgotten.
MARGIN = 0.1


class DamageRehearsal(Rehearsal):
    """A rehearsal whose rows come from the bins that training was found to damage.

    A row is forgotten where its mean loss, as the rehearsal's own forward pass finds it, exceeds the prior
    model's by `MARGIN`: for free text there is no right answer to count (`methods.md` P087). So every row
    counts as known before.
    """

    def __init__(
        self, examples: Sequence[Example], size: int, seed: int, name: str, prior: Sequence[float]
    ) -> None:
        """Begin without any evidence.

        Args:
            prior: of each example its mean loss before the stage.
        """
        super().__init__(examples, size, seed, name)
        assert len(self.examples) == len(prior), "every example has a label"
        import numpy as np

        bins = quantile_bins(np.asarray(prior), min(NUM_BINS, len(prior)))
        self.prior = list(prior)
        self.collateral = Collateral(bins, max(bins) + 1)
        self._numbers: list[int] = []

    def step(self, step: int) -> list[Example]:
        """The step's examples, the same on every rank."""
        if self._drawn[0] != step:
            import numpy as np

            generator = np.random.default_rng([int(self.seed), step])
            self._numbers = self.collateral.draw(self.size, generator)
            self._drawn = (step, [self.examples[number] for number in self._numbers])
        return self._drawn[1]

    def observe(self, part: tuple[int, int], nll: "Tensor", weight: "Tensor") -> None:
        """Note what the part's forward pass found, [N] of its tokens of weight [B, T]."""
        means = row_means(nll, weight).tolist()
        for number, mean in zip(self._numbers[part[0] :: part[1]], means, strict=True):
            self.collateral.observe(number, mean > self.prior[number] + MARGIN)

    def end_step(self, world: Any, device: Any) -> None:
        """Add what all ranks saw."""
        import torch

        self.collateral.end_step(
            lambda counts: world.sum_(torch.from_numpy(counts.copy()).to(device)).cpu().numpy()
        )
