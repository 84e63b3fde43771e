import io
import json
from typing import Any

import pytest

from cpt.redact import RedactingStream, redact, redact_tree, secret_values, secrets_in

SECRETS = {
    "HF_TOKEN": "canary-of-the-hub-1",
    "OPENAI_API_KEY": 'canary "quoted" \\ 2',
    "AWS_SECRET_ACCESS_KEY": "canary/with+signs=3",
    "PGPASSWORD": "canary-of-a-database-4",
    "SSHPASS": "canary-of-a-shell-5",
    "DEPLOY_KEY": "first line of a key\nsecond line of it\n",
}
OTHERS = {
    "TOKENIZERS_PARALLELISM": "false-as-it-is",
    "MONKEY": "a-monkeys-value",
    "KEY": "short",
    "SSH_AUTH_SOCK": "/tmp/agent.123",
    "AWS_SHARED_CREDENTIALS_FILE": "/home/a/.aws/credentials",
    "PATH": "/usr/bin:/bin",
    "OLDPWD": "/home/someone",
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("wrap", [str, json.dumps, repr, lambda value: f"--x={value};"])
def test_the_value_of_a_variable_is_gone_in_every_spelling(name: str, wrap: Any) -> None:
    text = redact(f"before {wrap(SECRETS[name])} after", SECRETS)
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert f"[redacted:{name}]" in text
    assert not any(line in text for line in SECRETS[name].splitlines())


def test_other_variables_stay() -> None:
    assert secret_values(OTHERS) == {}
    text = " ".join(OTHERS.values())
    assert redact(text, OTHERS) == text


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "a1" * 17,
        "sk-proj-" + "Ab1_" * 8,
        "ghp_" + "x" * 36,
        "github_pat_" + "x" * 22,
        "AKIA" + "A" * 16,
        "xoxb-1234567890-abc",
        "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSM",
    ],
)
def test_the_form_of_a_credential_is_enough(secret: str) -> None:
    assert redact(f"at {secret}, line 3", {}) == "at [redacted], line 3"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer [redacted]"),
        ("https://me:word@host/x", "https://[redacted]@host/x"),
        ("push to https://host:80/a@b", "push to https://host:80/a@b"),
        ("train.hub_token=abcdefg", "train.hub_token=[redacted]"),
        ('{"api_key": "abcd", "b": 1}', '{"api_key": "[redacted]", "b": 1}'),
        ("password: hunter2", "password: [redacted]"),
        ("hub_token=None", "hub_token=None"),
        ("eos_token=<|im_end|> max_tokens=2048", "eos_token=<|im_end|> max_tokens=2048"),
        ("num_tokens: 12345 at step 3", "num_tokens: 12345 at step 3"),
        ("a high_token: 3 task-0123456789abcdef0123", "a high_token: 3 task-0123456789abcdef0123"),
    ],
)
def test_what_is_named_a_secret_and_what_is_not(text: str, left: str) -> None:
    assert redact(text, {}) == left
    assert redact(left, {}) == left


def test_twice_is_as_good_as_once() -> None:
    text = f"hub_token={SECRETS['HF_TOKEN']} {SECRETS['DEPLOY_KEY']}"
    once = redact(text, SECRETS)
    assert redact(once, SECRETS) == once


def test_a_tree_keeps_its_shape() -> None:
    tree = {"api_key": "abcd", "n": 3, "a": [None, "canary-of-the-hub-1"], "eos_token": "</s>"}
    assert redact_tree(tree, SECRETS) == {
        "api_key": "[redacted]",
        "n": 3,
        "a": [None, "[redacted:HF_TOKEN]"],
        "eos_token": "</s>",
    }


def test_a_recipe_is_told_where_it_holds_a_secret() -> None:
    tree = {
        "stages": {
            "sft": {
                "data": [{"path": "https://me:word@host/x", "rows": ["the password: is hunter2"]}],
                "train": {"hub_token": "abcdefg", "run_name": "canary-of-the-hub-1"},
            }
        }
    }
    assert dict(secrets_in(tree, SECRETS)) == {
        "stages.sft.data.0.path": "a credential",
        "stages.sft.train.hub_token": "a credential",
        "stages.sft.train.run_name": "the value of $HF_TOKEN",
    }


def test_a_stream_takes_them_out_and_is_otherwise_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    below = io.StringIO()
    stream = RedactingStream(below)
    assert stream.write("at canary-of-the-hub-1") == 22
    stream.writelines(["\r", "canary-of-the-hub-1\n"])
    assert below.getvalue() == "at [redacted:HF_TOKEN]\r[redacted:HF_TOKEN]\n"
    assert stream.isatty() is False
