"""What all tests share: no network, one thread per process, a tiny model and tokenizer."""

import os

# Before torch or a hub library is imported, and inherited by the processes that tests start.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)

import gc
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where there is no accelerator; asks torch only when there are such tests."""
    waiting = [item for item in items if item.get_closest_marker("gpu")]
    if not waiting:
        return
    import torch

    if not torch.accelerator.is_available():
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason="no accelerator"))


@pytest.fixture(autouse=True)
def _forget_fingerprints() -> None:
    """Tests change files that one process would read once."""
    from cpt.corpora import fingerprint_of

    fingerprint_of.cache_clear()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level tokenizer without merges: one token per byte, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: index for index, word in enumerate([*special, *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A Hugging Face folder: a Llama with two layers of width 32 and untrained weights, fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tiny_tokenizer.eos_token_id,
            pad_token_id=tiny_tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_model(tiny_folder: Path) -> Any:
    """The model of `tiny_folder`, loaded anew."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder)


# --- chains: real processes that need not import torch anew -----------------------------------------

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke"

# What a chain imports, in the process that all others are forked from.
PRELOAD = [
    "launch.chain",
    "launch.stage",
    "stages.run",
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
    "trl.trainer.grpo_trainer",
    "peft",
    "lm_eval.evaluator",
    "lm_eval.tasks",
    "eval.harness",
    "eval.report.write",
    "transformers.models.llama.modeling_llama",
    "deepspeed",  # accelerate imports it where it is installed
    "cpt.corpora.general",
    "cpt.corpora.python_code",
    "cpt.hooks.trainer",
]

ENTRY = """
import gc, importlib, os, sys
gc.freeze()  # what was imported before the fork is never garbage
output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(output, 1)
os.dup2(output, 2)
exec(code, {"__name__": "before"})
sys.exit(importlib.import_module(module).main(arguments))
"""


# Every line that `cpt` itself prints begins with a sign that no library writes, and the libraries are as loud
# as they are when they are imported without a word in the environment.
SIGN = "\x01"
SIGNED = f"""
import builtins, importlib, logging, pkgutil, warnings
import launch
from transformers.utils import logging as of_transformers

of_transformers.enable_progress_bar()
warnings.simplefilter("default")
for library in ("transformers", "trl", "datasets", "accelerate", "peft", "lm_eval"):
    logging.getLogger(library).setLevel(logging.WARNING)

def signed(*words, **options):
    sign = {SIGN!r}
    builtins.print(*(sign + str(word).replace("\\n", "\\n" + sign) for word in words), **options)

for found in pkgutil.iter_modules(launch.__path__, "launch."):
    importlib.import_module(found.name).print = signed
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended (-9: killed), and all that it wrote."""

    code: int
    output: str


class Running:
    """A process under way."""

    def __init__(self, process: Any, log: Path) -> None:
        self.process, self.log = process, log

    @property
    def output(self) -> str:
        """What it wrote so far."""
        return self.log.read_text() if self.log.is_file() else ""

    def wait(self, seconds: float = 240) -> Ended:
        """Its end; a process that takes longer is killed, and that is a failure."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s:\n{self.output}")
        return Ended(int(self.process.exitcode), self.output)


class Processes:
    """Starts `cpt` and `launch.stage` in processes of their own, forked from one that has imported all.

    Each is a real process, with its own signals and exit code. `code` runs in it before anything else: a test
    puts its injected crash there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def start(self, *arguments: str | Path, code: str = "", module: str = "launch.cli") -> Running:
        """Start `module.main(arguments)`."""
        from launch.quiet import VARIABLES

        self.number += 1
        log = self.folder / f"{self.number}.log"
        given = {
            "log": str(log),
            "code": code,
            "module": module,
            "arguments": [str(argument) for argument in arguments],
        }
        process = self.context.Process(target=exec, args=(ENTRY, given), daemon=True)
        with mock.patch.dict(os.environ, VARIABLES):
            process.start()
        return Running(process, log)

    def run(self, *arguments: str | Path, code: str = "", module: str = "launch.cli") -> Ended:
        """Start and wait."""
        return self.start(*arguments, code=code, module=module).wait()

    def smoke(self, runs: Path, *more: str, code: str = "") -> Ended:
        """Run the smoke chain in a runs folder."""
        return self.run("run", SMOKE / "chain.yaml", *more, "--runs", runs, code=code)


class Finished:
    """A runs folder with a whole smoke chain in it; read only.

    Attributes:
        runs: the folder.
        output: all that was written while it ran.
        foreign: those lines of it that are not ours.
        ids: name of a stage -> its id.
    """

    def __init__(self, runs: Path, output: str) -> None:
        self.runs, self.output = runs, output.replace(SIGN, "")
        self.foreign = [line for line in output.splitlines() if not line.startswith(SIGN)]
        tree = json.loads((runs / "chains" / "smoke" / "chain.json").read_text())
        self.ids: dict[str, str] = {node["name"]: node["id"] for node in tree["nodes"]}

    def stage(self, name: str) -> Path:
        """A stage's folder."""
        return self.runs / "stages" / self.ids[name]

    def copy(self, runs: Path, until: str = "grpo") -> Path:
        """A runs folder in which the chain is finished up to `until`."""
        for name, stage_id in self.ids.items():
            shutil.copytree(self.stage(name), runs / "stages" / stage_id, symlinks=True)
            if name == until:
                break
        return runs

    def assert_equal(self, runs: Path, *names: str) -> None:
        """What the stages of another runs folder left equals what was left here, bit for bit.

        Weights, adapters, exemplars and probe outcomes; in the curves all but times.
        """
        for name in names or self.ids:
            for file in ("checkpoint/model.safetensors", "exemplars.jsonl"):
                if (self.stage(name) / file).exists():
                    other = runs / "stages" / self.ids[name] / file
                    assert (self.stage(name) / file).read_bytes() == other.read_bytes(), (
                        name,
                        file,
                    )
            own, other = (folder / "stages" / self.ids[name] for folder in (self.runs, runs))
            assert without_times(own) == without_times(other), name


def without_times(stage: Path) -> tuple[list[Any], dict[str, Any]]:
    """A stage's curves and probe cells, without what a clock put there."""
    curves = []
    if (stage / "metrics.jsonl").is_file():
        for line in (stage / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            clocks = ("runtime", "per_second", "preparation_time", "step_time")
            curves.append({k: v for k, v in row.items() if not k.endswith(clocks)})
    cells = {}
    for file in (stage / "probes").glob("*.json"):
        for name, cell in json.loads(file.read_text())["probes"].items():
            cells[f"{file.name}/{name}"] = {k: v for k, v in cell.items() if k != "seconds"}
    return curves, cells


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Processes:
    return Processes(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Finished:
    """The one uninterrupted smoke chain that all tests compare with."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    ended = processes.smoke(runs, code=SIGNED)
    assert ended.code == 0, ended.output
    return Finished(runs, ended.output)


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Any]:
    """`base -> pretrain -> sft` on disk, and jobs on top of them. No sample answers: they cost time."""
    import torch
    import trl

    import stages.under_way as under_way
    from tests.tiny_stages import TinyStages

    torch.set_num_threads(1)
    assert trl.SFTTrainer
    assert trl.DPOTrainer
    assert trl.GRPOTrainer
    gc.freeze()  # a stage collects garbage; all that was imported is none
    before, under_way.NUM_SAMPLES = under_way.NUM_SAMPLES, 0
    yield TinyStages(tmp_path_factory.mktemp("tiny"), tiny_folder)
    under_way.NUM_SAMPLES = before
