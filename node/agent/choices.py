"""Owns the choices of one attempt: each is a job of the runtime, together they are one answer.

Theory of operation. An offer of several choices is prepared once for each that is not over yet,
with a seed of its own; the runtime computes what their prompts have in common once, even where
nothing is shared with other offers: the input is paid once. Their outputs
go to the gateway as they come, each frame names its choice, and the receipts are over all of them
in that order. The attempt ends with its last choice; if one fails or is cancelled, so are all.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Protocol

from node.agent.runtime_port import NOTHING_KNOWN, JobSink, PreparedJob, Runtime, WorkFacts
from p2p.errors import RefusedError
from p2p.job_messages import ChoiceState, Offer, choice_seed
from p2p.logprob_messages import TokenLogprob

_COMPLETE = ("stop", "length", "tool_calls")
SCOPE_BYTES = 16
"""Of a scope that no other offer has (`p2p.job_messages.CacheScope`)."""


@dataclass(frozen=True, slots=True)
class PreparedChoices:
    """What can be started: the choice and the runtime's number of each; the totals."""

    numbers: dict[int, int]
    input_tokens: int
    output_tokens_max: int
    work: WorkFacts = NOTHING_KNOWN


def choices_to_run(offer: Offer) -> list[ChoiceState]:
    """The choices of an offer that are not over, with what they resume.

    Raises: RefusedError `bad_request` for an offer that contradicts itself.
    """
    if offer.choices == 1:
        if offer.resume_choices:
            raise RefusedError("bad_request", "a job of one choice resumes by resume_tokens")
        return [ChoiceState(0, offer.resume_tokens)]
    known = {state.choice: state for state in offer.resume_choices}
    if len(known) < len(offer.resume_choices) or max(known, default=0) >= offer.choices:
        raise RefusedError("bad_request", "the resumed choices are not those of the job")
    if offer.resume_tokens or offer.task != "chat":
        raise RefusedError("bad_request", "only chats have several choices, with their own tokens")
    states = [known.get(choice, ChoiceState(choice, ())) for choice in range(offer.choices)]
    waiting = [state for state in states if not state.finish]
    if not waiting:
        raise RefusedError("bad_request", "all choices are over already")
    each = offer.output_tokens_max // offer.choices
    if any(len(state.token_ids) > each for state in waiting):
        raise RefusedError("bad_request", "more resumed tokens than a choice may produce")
    return waiting


async def prepare_choices(runtime: Runtime, offer: Offer, cache_scope: bytes) -> PreparedChoices:
    """Have every choice prepared. Raises: as `Runtime.prepare`, RefusedError."""
    prepared: dict[int, PreparedJob] = {}
    if offer.choices > 1 and not cache_scope:
        cache_scope = secrets.token_bytes(SCOPE_BYTES)
    try:
        for state in choices_to_run(offer):
            prepared[state.choice] = await runtime.prepare(
                offer.request,
                output_tokens_max=offer.output_tokens_max // offer.choices,
                seed=choice_seed(offer.seed, state.choice),
                resume_tokens=state.token_ids,
                cache_scope=cache_scope,
                task=offer.task,
            )
    except BaseException:
        for job in prepared.values():
            runtime.cancel(job.number)
        raise
    return PreparedChoices(
        {choice: job.number for choice, job in prepared.items()},
        max(job.input_tokens for job in prepared.values()),
        sum(job.output_tokens_max for job in prepared.values()),
        next(iter(prepared.values())).work,
    )


class ChoicesOwner(JobSink, Protocol):
    """What the choices of an attempt need of it."""

    def on_choice_output(
        self,
        choice: int,
        token_ids: tuple[int, ...],
        text: str,
        logprobs: tuple[TokenLogprob, ...],
        finish: str,
    ) -> None:
        """Send the output of one choice, or how it ended."""
        ...


class ChoiceRuns:
    """The choices of an attempt that run or wait."""

    def __init__(self, owner: ChoicesOwner, runtime: Runtime, numbers: dict[int, int]) -> None:
        """Nothing is started yet."""
        self._owner = owner
        self._runtime = runtime
        self._numbers = dict(numbers)
        self._first = min(numbers)
        self._input_tokens = -1
        self._outcome = "stop"
        self._detail = ""
        self._stopped = False

    def begin(self) -> None:
        """Start them all."""
        for choice, number in list(self._numbers.items()):
            self._runtime.start(number, _ChoiceSink(self, choice))

    def stop(self) -> None:
        """Take those that are left from the runtime; the ends of those that run follow."""
        if not self._stopped:
            self._stopped = True
            for number in list(self._numbers.values()):
                self._runtime.cancel(number)

    def on_cached(self, choice: int, input_tokens: int) -> None:
        """The input is one choice's; the others found it there."""
        if choice == self._first:
            self._owner.on_cached(input_tokens)

    def on_input(self, input_tokens: int) -> None:
        """All have the same input, in whatever order they begin: what is stated never falls."""
        if input_tokens > self._input_tokens:
            self._input_tokens = input_tokens
            self._owner.on_input(input_tokens)

    def on_output(
        self,
        choice: int,
        token_ids: tuple[int, ...],
        text: str,
        logprobs: tuple[TokenLogprob, ...],
    ) -> None:
        """Pass output on."""
        self._owner.on_choice_output(choice, token_ids, text, logprobs, "")

    def on_end(self, choice: int, outcome: str, detail: str) -> None:
        """One is over; the attempt is with the last one."""
        if self._numbers.pop(choice, None) is None:
            return
        if outcome in _COMPLETE:
            self._owner.on_choice_output(choice, (), "", (), outcome)
            if outcome == "length" and self._outcome == "stop":
                self._outcome = "length"
        elif self._outcome in _COMPLETE:
            self._outcome, self._detail = outcome, detail
            self.stop()
        if not self._numbers:
            self._owner.on_end(self._outcome, self._detail)


class _ChoiceSink:
    """Takes one choice's output."""

    def __init__(self, runs: ChoiceRuns, choice: int) -> None:
        self._runs = runs
        self._choice = choice

    def on_cached(self, input_tokens: int) -> None:
        """See `JobSink`."""
        self._runs.on_cached(self._choice, input_tokens)

    def on_input(self, input_tokens: int) -> None:
        """See `JobSink`."""
        self._runs.on_input(input_tokens)

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        """See `JobSink`."""
        self._runs.on_output(self._choice, token_ids, text, logprobs)

    def on_end(self, outcome: str, detail: str) -> None:
        """See `JobSink`."""
        self._runs.on_end(self._choice, outcome, detail)
