"""What looking at a model costs beside training it, as soon as that can be known."""

#: Above this part of the training's time, a person is told what looking costs; `methods.md` A35.
DEAR = 0.3
#: Seconds below which all looks together are no matter.
LITTLE = 60.0


class LookCost:
    """Seconds of looks and steps so far, and what they say of the whole stage.

    Neither the first step counts, in which much is set up, nor the first look with a suite, in which the base
    model may be measured.

    Args:
        num_looks, num_steps: of the whole stage.
        has_suite: whether looks measure one.
    """

    def __init__(self, num_looks: int, num_steps: int, has_suite: bool) -> None:
        self.num_looks, self.num_steps = num_looks, num_steps
        self._unlike = int(has_suite)
        self._looks: list[float] = []
        self._steps, self._stepping = -1, 0.0
        self._has_told = False

    def looked(self, seconds: float) -> None:
        """One look more."""
        self._looks.append(seconds)

    def stepped(self, seconds: float) -> None:
        """One step more."""
        self._steps += 1
        if self._steps:
            self._stepping += seconds

    @property
    def share(self) -> float | None:
        """Seconds of all looks, in parts of those of all steps; None: not yet known."""
        looks = self._looks[self._unlike :]
        if not looks or self._steps < 1:
            return None
        return sum(looks) / len(looks) * self.num_looks / self.seconds_of_steps

    @property
    def seconds_of_steps(self) -> float:
        """That the whole stage trains."""
        return max(self._stepping / self._steps, 1e-9) * self.num_steps

    def told(self) -> str:
        """A sentence, once, where looks are dear."""
        share = self.share
        if self._has_told or share is None or share <= DEAR:
            return ""
        seconds = share * self.seconds_of_steps
        if seconds < LITTLE:
            return ""
        self._has_told = True
        return (
            f"watch: {self.num_looks} looks of {seconds / self.num_looks:.1f} s are about {share:.0%} of the "
            f"time of {self.num_steps} steps; raise watch.every, set watch.early: false, or name a smaller "
            f"suite"
        )
