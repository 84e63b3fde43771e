from collections.abc import Iterator

import pytest
import torch

import cpt.merging.threshold as module
from cpt.merging.threshold import num_kept, threshold_of, thresholds_of_stream


def test_the_number_kept_is_exact() -> None:
    assert num_kept(0.29, 100) == 29  # 0.29 * 100 is 28.999999999999996
    assert num_kept(0.6, 5) == 3
    assert num_kept(0.2, 3) == 1  # at least one
    assert num_kept(1, 7) == 7


def test_as_many_stay_as_are_to_stay() -> None:
    tensor = torch.randn(8, 125, generator=torch.Generator().manual_seed(0))
    for density in (0.001, 0.2, 0.999):
        assert int((tensor.abs() >= threshold_of(tensor, density)).sum()) == density * 1000
    assert threshold_of(tensor, 1) == 0


def test_of_many_entries_it_is_found_by_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    found = [threshold_of(tensor, density) for density in (0.0002, 0.3, 0.99)]
    monkeypatch.setattr(module, "_FEW", 100)
    assert [threshold_of(tensor, density) for density in (0.0002, 0.3, 0.99)] == found


@pytest.mark.parametrize("density", [0.0005, 0.2, 0.5, 0.9995, 1])
def test_a_stream_has_the_threshold_of_all_its_tensors_together(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    models = [
        [torch.randn(shape, generator=generator) * scale for shape in ((1500,), (20, 20), (100,))]
        for scale in (1.0, 1e-6)
    ]
    models[0][1][:, :10] = 0  # many equal ones
    reads = 0

    def stream() -> Iterator[list[torch.Tensor]]:
        nonlocal reads
        reads += 1
        yield from ([model[place] for model in models] for place in range(3))

    found = thresholds_of_stream(stream, 2, density)
    whole = [torch.cat([tensor.flatten() for tensor in model]) for model in models]
    assert found == [threshold_of(model, density) for model in whole]
    assert reads == (0 if density == 1 else 2)
