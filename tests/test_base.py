"""The base model of a chain: a disk that fills up while it is made."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

NO_SPACE = """
import errno, os

def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
"""
PLACES = {
    "weights": "import transformers.modeling_utils as m; m.safe_save_file = full",
    "tokenizer": "import transformers as t; t.PreTrainedTokenizerFast.save_pretrained = full",
    "manifest": "import cpt.ids as i; i.atomic_write = full",
    # Stops real writes, inside Rust too.
    "files": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))",
}


def test_a_full_disk_while_the_base_is_made_is_one_line_and_it_is_made_anew(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    for place, code in PLACES.items():
        ended = processes.smoke(runs, "--until", "base", code=NO_SPACE + code)
        assert ended.code == 1, (place, ended.output)
        *_, last = ended.output.splitlines()
        assert last.startswith("cpt: the disk is full"), (place, ended.output)
        assert last.endswith(
            "nothing that was finished is lost; free some space, and the same command continues"
        )
        assert "Traceback" not in ended.output, place
        assert not (runs / "stages" / finished.ids["base"]).exists(), place
    ended = processes.smoke(runs, "--until", "base")
    assert ended.code == 0, ended.output
    finished.assert_equal(runs, "base")
    assert [path.name for path in (runs / "stages").iterdir()] == [finished.ids["base"]]
