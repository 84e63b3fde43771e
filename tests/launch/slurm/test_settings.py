"""What a cluster's file may say: nothing of it becomes a command, or another option."""

from pathlib import Path
from typing import Any

import pytest

from cpt.errors import RecipeError
from cpt.settings import validate
from launch.backend import ROOT
from launch.slurm.settings import Cluster, read


def checked(**settings: Any) -> Cluster:
    return validate(Cluster, settings, "mine.yaml")


@pytest.mark.parametrize(
    "text",
    ["a b", "a;b", "a\nb", "a\n#SBATCH --uid=0", "$(id)", "`id`", "a'b", 'a"b', "a\\b", "a#b", ""],
)
@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint", "time", "memory"])
def test_what_is_no_single_word_is_refused(key: str, text: str) -> None:
    with pytest.raises(RecipeError, match=rf"^mine.yaml: {key}: "):
        checked(**{key: text})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules": ["cuda; rm -rf /"]}, "modules.0: 'cuda; rm -rf /' is no name"),
        ({"options": {"mail type": "x"}}, "is no option of sbatch"),
        ({"options": {"mail-type": "END\n--uid=0"}}, "options.mail-type: "),
        ({"options": {"partition": "x"}}, "partition: write `partition`, outside of `options`"),
        ({"options": {"mem": "1G"}}, "mem: write `memory`"),
        ({"options": {"signal": "9"}}, "signal: write `signal`"),
        ({"options": {"nodes": "2"}}, "nodes: the job sets it itself"),
        ({"environment": {"A B": "x"}}, "'A B' is no name of a variable"),
        ({"environment": {"A": "x\ny"}}, "has a line break"),
        ({"environment": {"HF_TOKEN": "x"}}, "HF_TOKEN looks like a secret"),
        ({"environment": {"WANDB_API_KEY": "x"}}, "WANDB_API_KEY looks like a secret"),
        ({"signal": 10}, "signal: input should be greater than or equal to 60"),
        ({"partiton": "x"}, "there is no 'partiton'; did you mean 'partition'?"),
    ],
)
def test_what_is_refused_says_what_instead(settings: Any, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        checked(**settings)
    assert words in str(error.value)
    assert "'x'?" not in str(error.value)


@pytest.mark.parametrize("time", ["30", "90:00", "04:00:00", "2-00", "2-12:00", "2-12:00:00"])
def test_times_of_slurm_are_times(time: str) -> None:
    assert checked(time=time).time == time


def test_the_shipped_example_is_read() -> None:
    found = read(ROOT / "configs" / "slurm" / "example.yaml")
    assert (found.partition, found.gpus, found.signal) == ("gpu", 8, 180)


def test_no_file_is_slurms_own_settings_and_a_missing_one_an_error(tmp_path: Path) -> None:
    assert read(None) == Cluster()
    with pytest.raises(RecipeError, match=r"example\.yaml is an example"):
        read(tmp_path / "none.yaml")
