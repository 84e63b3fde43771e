"""A stage's settings -> the config of its TRL trainer."""

from typing import Any

from cpt.sharding import sharding
from cpt.world import World
from stages.base import Job, StageKind
from stages.supply import Supply
from stages.trl_args import trl_config


def trainer_config(kind: StageKind, job: Job, data: Supply, world: World) -> Any:
    """The TRL config; steps and order are those of the data stream."""
    import torch

    train = {key: value for key, value in job.spec.train.items() if key != "num_train_epochs"}
    train |= {"max_steps": data.num_steps}
    train.setdefault("batch_size", 8)
    config = trl_config(
        kind.config,
        train,
        output_dir=job.partial / "trainer",
        seed=job.seed,
        use_cpu=not torch.cuda.is_available(),
        sharded=sharding(job.backend).is_sharded,
        world_size=world.size,
        micro_batch=job.spec.micro_batch,
        checkpoint_every=job.spec.checkpoint_every or job.checkpoint_every,
        evaluate=data.held_out is not None,
        trackers=job.trackers,
        run_name=f"{job.name}-{job.id}",
        disable_tqdm=True,
    )
    # The stream is the order: rows are taken as they stand.
    config.train_sampling_strategy = "sequential"
    return config
