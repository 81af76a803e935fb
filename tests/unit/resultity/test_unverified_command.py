"""`network allow-unverified` makes a new version of the configuration; `ask` names its option."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import openai
from click.testing import CliRunner, Result

from p2p.network_configuration import UnverifiedModel
from resultity.__main__ import main
from resultity.commands.ask import explain_failure
from resultity.network_files import NetworkFiles


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def allow(folder: Path, name: str, *words: object) -> Result:
    return run("network", "allow-unverified", name, "--data-dir", folder, *words)


def listed(folder: Path) -> tuple[UnverifiedModel, ...]:
    return NetworkFiles(folder).configuration()[1].unverified_models


def test_a_name_is_listed_changed_and_signed_again(tmp_path: Path) -> None:
    assert run("network", "init", "--name", "test", "--data-dir", tmp_path).exit_code == 0
    done = allow(tmp_path, "big", "--context-tokens", 4096, "--input-price", 5)
    assert json.loads(done.stdout) == {"version": 2, "model": "big"}
    allow(tmp_path, "eyes", "--context-tokens", 100, "--image-tokens-max", 50)
    done = allow(tmp_path, "big", "--context-tokens", 8192, "--output-price", 7)
    assert done.exit_code == 0, done.output
    eyes, big = listed(tmp_path)
    assert (eyes.takes_images, eyes.image_tokens_max) == (True, 50)
    assert (big.context_tokens, big.output_microcredits_per_million_tokens) == (8192, 7)
    # What `network show` prints can be signed again.
    document = tmp_path / "edited.json"
    document.write_text(run("network", "show", tmp_path).stdout)
    assert run("network", "sign", document, "--data-dir", tmp_path).exit_code == 0
    assert listed(tmp_path) == (eyes, big)


def test_a_name_that_cannot_be_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    run("network", "init", "--name", "test", "--data-dir", tmp_path)
    done = allow(tmp_path, "no name", "--context-tokens", 10)
    assert done.exit_code == 1
    assert "name" in done.stderr
    assert listed(tmp_path) == ()


def test_ask_says_with_which_option_unverified_models_are_accepted() -> None:
    request = httpx.Request("POST", "http://127.0.0.1/v1/chat/completions")
    body = {"message": "The model m is unverified.", "code": "unverified_model"}
    error = openai.BadRequestError("m", response=httpx.Response(400, request=request), body=body)
    assert "--accept-unverified" in explain_failure(error, "http://127.0.0.1/v1")
    error.body = {"message": "Too long.", "code": "context_length_exceeded"}
    assert explain_failure(error, "http://127.0.0.1/v1") == "Too long."
