"""What a cluster asks for, as `configs/slurm/<cluster>.yaml` says it.

All of it ends up in a script that a shell reads, so each value is one word of harmless letters, or is quoted.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from cpt import yaml12
from cpt.errors import RecipeError
from cpt.settings import Settings, validate

#: Seconds of the time between the signal and the end that are slurm's, for the shell and the requeue.
OVERHEAD = 30
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEY($|_)", re.IGNORECASE)


def _word(letters: str, what: str) -> Any:
    """A type: text of these letters only."""

    def check(value: str) -> str:
        if not re.fullmatch(f"[{letters}]+", value):
            raise ValueError(f"{value!r} is no {what}")
        return value

    return AfterValidator(check)


Name = Annotated[str, _word(r"A-Za-z0-9_.,@:+/=-", "name: letters, digits and _.,@:+/=- only")]
Constraint = Annotated[str, _word(r"A-Za-z0-9_.,*|&()\[\]-", "constraint of features")]
Option = Annotated[str, _word(r"a-z0-9-", "option of sbatch: write it without the dashes in front")]
Time = Annotated[
    str,
    Field(pattern=r"^(\d{1,3}-\d{1,2}(:\d{2}){0,2}|\d{1,5}|\d{1,3}:\d{2}|\d{1,3}:\d{2}:\d{2})$"),
]
Memory = Annotated[str, Field(pattern=r"^\d+[KMGT]?$")]

#: Options that the job sets itself.
_OURS = (
    "array begin batch chdir dependency error export input job-name nodes ntasks ntasks-per-node "
    "no-requeue open-mode output parsable requeue signal test-only wait wrap"
)


class Cluster(Settings):
    """What every job asks for. Chains run on one node; their backend says on how many of its GPUs."""

    time: Time = Field(default="24:00:00", description="of one job; a chain may take many")
    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Constraint | None = None
    gpus: int | None = Field(default=None, ge=1, description="of the node; none: a job without")
    cpus: int | None = Field(default=None, ge=1)
    memory: Memory | None = Field(default=None, description="of the node, as 200G; 0: all")
    exclusive: bool = False
    signal: int = Field(
        default=180, ge=60, le=65535, description="seconds before the end at which to save"
    )
    max_requeues: int = Field(default=50, ge=0)
    modules: list[Name] = Field(default_factory=list, description="for `module load`")
    environment: dict[str, str] = Field(default_factory=dict)
    options: dict[Option, Name | None] = Field(
        default_factory=dict, description="more of sbatch's, such as mail-type: END"
    )

    @field_validator("environment")
    @classmethod
    def _safe(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of a variable")
            if _SECRET.search(name):
                raise ValueError(
                    f"{name} looks like a secret, which would be written into the job's script; set it where "
                    f"you call cpt slurm: sbatch hands on what is set there"
                )
            if not text.isprintable():
                raise ValueError(f"{name}: {text!r} has a line break or a control character")
        return value

    @field_validator("options")
    @classmethod
    def _not_ours(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        known = {"mem": "memory", "cpus-per-task": "cpus", "gpus-per-node": "gpus", "gpus": "gpus"}
        for name in value:
            key = known.get(name, name)
            if key in cls.model_fields:
                raise ValueError(f"{name}: write `{key}`, outside of `options`")
            if name in _OURS.split():
                raise ValueError(f"{name}: the job sets it itself")
        return value


def read(file: Path | None) -> Cluster:
    """The settings of a cluster; slurm's own where there is no file.

    Raises:
        RecipeError: it cannot be read, or says what cannot be.
    """
    if file is None:
        return Cluster()
    if not file.is_file():
        raise RecipeError(
            f"{file}: there is no such file; configs/slurm/example.yaml is an example"
        )
    return validate(Cluster, yaml12.load(file), str(file))
