"""Owns `resultity demo`: a whole network at work, from nothing to nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console

from resultity.accounts import show_credits
from resultity.bills import save_bill
from resultity.demo_answers import Answer, ask_streamed, ask_whole
from resultity.errors import ProcessError, ReceiptError, ResultityError
from resultity.http_json import gateway_root, get_json
from resultity.local.folders import LocalFolders
from resultity.local.processes import wait_gone
from resultity.local.state import read_state
from resultity.local.supervise import stop_network
from resultity.recording_client import RecordingClient
from resultity.role_process import reported_errors

UP_TIMEOUT_S = 180.0
ANSWER_TIMEOUT_S = 120.0
SETTLE_TIMEOUT_S = 30.0
VERIFY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 45.0
QUESTIONS = ("What is the capital of France?", "What is 3 + 4?")


@click.command()
def demo() -> None:
    """Show a whole network at work, then remove it.

    Starts a bootstrap, two nodes and a gateway on free ports, asks two questions with the openai
    package, shows what they cost, has the receipts verified by another process, stops everything.
    """
    with reported_errors(), tempfile.TemporaryDirectory(prefix="resultity-demo-") as folder:
        root = Path(folder)
        say = Console(soft_wrap=True, highlight=False, markup=False).print
        try:
            _demo(root, say)
        except BaseException:
            _keep_logs(root, say)
            _stop(root, lambda text: None)
            raise


def _demo(root: Path, say: Any) -> None:
    began = time.monotonic()
    say("Starting a network of your own: bootstrap, two nodes, gateway ...")
    facts = _up(root)
    families = [_family(process["pid"]) for process in facts["processes"]]
    say(f"It answers at {facts['base_url']} after {time.monotonic() - began:.1f} s.")
    for process in facts["processes"]:
        say(f"  {process['role']:<9} pid {process['pid']:<7} {process['peer_id']}")
    before = _balance(facts)
    say(f"\nBalance before: {show_credits(before)} credits")
    base_url, key = facts["base_url"], facts["api_key"]
    with RecordingClient(base_url, key, timeout_s=ANSWER_TIMEOUT_S) as client:
        say(f"\n> {QUESTIONS[0]}   (streamed)")
        answers = [ask_streamed(client, QUESTIONS[0], lambda text: say(text, end=""))]
        say("")
        say(f"\n> {QUESTIONS[1]}   (whole)")
        answers.append(ask_whole(client, QUESTIONS[1]))
        say(answers[1].text)
        say("")
    for answer in answers:
        verify_in_another_process(root, facts, answer, say)
    paid = sum(answer.price_microcredits for answer in answers)
    after = _settled_balance(facts, before - paid)
    say(f"\nPrice paid:     {show_credits(paid)} credits")
    say(f"Balance after:  {show_credits(after)} credits")
    if before - after != paid:
        raise ReceiptError(f"{before - after} microcredits are gone, the receipts say {paid}")
    if "paris" not in answers[0].text.lower():
        raise ResultityError(f"the answer was {answers[0].text!r}, not Paris")
    say("\nStopping ...")
    _stop(root, lambda text: None)
    left = wait_gone([process for family in families for process in family], timeout_s=0)
    if left:
        raise ProcessError(f"still running: {', '.join(str(process.pid) for process in left)}")
    say(f"Nothing is left running. That took {time.monotonic() - began:.1f} s.")
    say("`make up` starts a network that stays.")


def _up(root: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "resultity", "up", "--detach", "--json"]
    command += ["--port", "0", "--nodes", "2", "--data-dir", str(root / "data")]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=UP_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ProcessError("the network did not start: see above")
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    return facts


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _account(facts: dict[str, Any]) -> dict[str, Any]:
    url = f"{gateway_root(facts['base_url'])}/v1/account/balance"
    answer = get_json(url, api_key=facts["api_key"])
    assert isinstance(answer, dict)
    return answer


def _balance(facts: dict[str, Any]) -> int:
    """What the namespace has; what a gateway holds or has leased is not spent."""
    account = _account(facts)
    return int(account["available_microcredits"]) + int(account["held_microcredits"])


def _settled_balance(facts: dict[str, Any], expected: int) -> int:
    """The balance once the answers are paid for: captures follow the answers by a moment."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        balance = _balance(facts)
        if balance == expected or time.monotonic() > deadline:
            return balance
        time.sleep(0.1)


def verify_in_another_process(root: Path, facts: dict[str, Any], answer: Answer, say: Any) -> None:
    """Have a process that is given public things only check a receipt."""
    folder = root / "bill"
    save_bill(folder, facts["base_url"], answer.request, answer.text, answer.receipt)
    # The network's ID is what its founder told us, not what the gateway says.
    command = [sys.executable, "-m", "resultity", "receipt", "verify", str(folder)]
    command += ["--network", facts["network"]]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=VERIFY_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ReceiptError(f"a receipt does not verify: {done.stderr.strip()}")
    say(f"Receipt {done.stdout.strip()}")


def _stop(root: Path, say: Any) -> None:
    folders = LocalFolders(root / "data")
    if read_state(folders).processes:
        stop_network(folders, say, STOP_TIMEOUT_S)


def _keep_logs(root: Path, say: Any) -> None:
    logs = root / "data" / "logs"
    if logs.exists():
        kept = Path(tempfile.mkdtemp(prefix="resultity-demo-logs-"))
        shutil.copytree(logs, kept, dirs_exist_ok=True)
        say(f"The demo failed; its logs are in {kept}")
