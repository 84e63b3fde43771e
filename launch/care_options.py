"""Options and examples of the verbs that care for a runs folder: verify, gc, export."""

import argparse
from pathlib import Path

VERIFY = """examples:
  cpt verify                            every stage of the runs folder
  cpt verify quickstart                 a chain
  cpt verify sft-91be04e7 ./out/sft     stages
cpt run checks files as well, once for as long as their size, times and inode stay: what a disk has lost since
is found here only. One line for each damaged file: which, what is wrong, what to do.
exit codes: 0 all is what was written, 1 something is damaged, 2 no such stage or chain"""

GC = """examples:
  cpt gc --dry-run                      what would go, and how much disk that frees
  cpt gc                                what is left of training: checkpoints of the trainer, candidates that
                                        were judged, interrupted stages that no chain names
  cpt gc --stages --older 30d           finished stages too, of those that no chain names
  cpt gc --pin sft-91be04e7             keep a stage and all that it came from; --unpin lets it go again
kept is what any chain of the runs folder reaches, and what is pinned in its pinned.txt; a stage by hand that
lies in a folder of its own is in no chain: pin what it came from. What is being made now is left alone.
--older: nothing that changed since then goes, of what no chain names (default 7d)"""

EXPORT = """examples:
  cpt export runs/chains/quickstart/2-sft --to ./my-model
  cpt export sft-91be04e7 --to ./my-adapter --adapter
  cpt export sft-91be04e7 --to ./my-model --push me/my-model --private
the folder opens with from_pretrained alone; every file is checked against its digest as it is copied.
README.md is the model card, and provenance.json says how it was made; neither names a place of this machine.
The rows that the stage trained on stay here unless --with-rows. --push uses the login of huggingface_hub
(hf auth login), never a token of the command line"""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def seconds(text: str) -> float:
    """`30d`, `12h`, `5m`, `10s` in seconds."""
    try:
        found = float(text[:-1]) * _UNITS[text[-1:]]
    except (ValueError, KeyError):
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: write an age as 30d, 12h, 5m or 10s")
    return found


def add_verify(verb: argparse.ArgumentParser) -> None:
    """The options of `cpt verify`."""
    verb.add_argument(
        "names", nargs="*", metavar="STAGE|CHAIN", help="default: all of the runs folder"
    )


def add_gc(verb: argparse.ArgumentParser) -> None:
    """The options of `cpt gc`."""
    verb.add_argument("--dry-run", action="store_true", help="only list what would go")
    verb.add_argument(
        "--stages", action="store_true", help="also finished stages that are in no chain"
    )
    verb.add_argument(
        "--older",
        type=seconds,
        default=7 * _UNITS["d"],
        metavar="AGE",
        help="of what is in no chain only what is older: 12h, 30d, 0d (default: 7d)",
    )
    verb.add_argument("--pin", nargs="+", default=[], metavar="STAGE", help="keep these stages")
    verb.add_argument("--unpin", nargs="+", default=[], metavar="STAGE", help="no longer these")


def add_export(verb: argparse.ArgumentParser) -> None:
    """The options of `cpt export`."""
    verb.add_argument("stage", help="a stage: its id, folder, or link in a chain")
    verb.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    verb.add_argument(
        "--adapter", action="store_true", help="the adapter that it trained, not its checkpoint"
    )
    verb.add_argument(
        "--with-rows", action="store_true", help="also exemplars.jsonl: rows that it trained on"
    )
    verb.add_argument("--push", metavar="REPO", help="also upload it to this repository of the hub")
    verb.add_argument("--private", action="store_true", help="make that repository private")
