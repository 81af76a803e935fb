"""Owns what a job has produced so far, choice by choice."""

from __future__ import annotations

import hashlib

from gateway.jobs import Delta, Ended, texts_as_one
from p2p.job_messages import ChoiceState, OutputFrame
from p2p.logprob_messages import TokenLogprob


class JobOutput:
    """The output of one job, over all its attempts.

    Of a streaming job the texts have gone to the client; they are kept only where the receipt's
    hash needs them at the end.
    """

    def __init__(self, choices: int, *, streaming: bool) -> None:
        """Begin with nothing."""
        self._streaming = streaming
        self._tokens: list[list[int]] = [[] for _ in range(choices)]
        self._finishes = [""] * choices
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(choices)]
        self._hash = hashlib.sha256()
        self.token_count = 0

    @property
    def choices(self) -> int:
        """How many answers there are."""
        return len(self._tokens)

    @property
    def unfinished(self) -> int:
        """How many choices are not over."""
        return self._finishes.count("")

    def take(self, frame: OutputFrame) -> Delta | None:
        """Take output that was checked; gives what a streaming client is told of it."""
        choice = frame.choice
        self._tokens[choice].extend(frame.token_ids)
        self.token_count += len(frame.token_ids)
        self._hash.update(frame.text.encode())
        if self.choices > 1 and frame.finish:
            self._finishes[choice] = frame.finish
        if self.choices > 1 or not self._streaming:
            self._texts[choice].append(frame.text)
        if self._streaming:
            return Delta(frame.text, len(frame.token_ids), choice, frame.logprobs)
        self._logprobs[choice].extend(frame.logprobs)
        return None

    # --- attempts -------------------------------------------------------------------------------
    def begin_attempt(self) -> None:
        """Forget what came without a token, if nobody has seen it: the next node gives the whole
        answer (vectors are not resumed)."""
        if not (self.token_count or self._streaming):
            self._texts = [[] for _ in self._texts]
            self._hash = hashlib.sha256()

    def finish(self, reason: str) -> None:
        """The attempt that ran all unfinished choices is complete."""
        self._finishes = [known or reason for known in self._finishes]

    def finish_full(self, tokens_max: int) -> bool:
        """End the choices that have all the tokens they may have (their node was lost between the
        last token and the end); gives whether all choices are over."""
        for choice, tokens in enumerate(self._tokens):
            if tokens and len(tokens) >= tokens_max:
                self._finishes[choice] = self._finishes[choice] or "length"
        return all(self._finishes)

    @property
    def resume_tokens(self) -> tuple[int, ...]:
        """What the next node replays, in a job of one choice."""
        return tuple(self._tokens[0]) if self.choices == 1 else ()

    @property
    def resume_choices(self) -> tuple[ChoiceState, ...]:
        """What the next node replays or leaves alone, in a job of several choices."""
        if self.choices == 1:
            return ()
        return tuple(
            ChoiceState(choice, () if finish else tuple(tokens), finish)
            for choice, (tokens, finish) in enumerate(
                zip(self._tokens, self._finishes, strict=True)
            )
            if tokens or finish
        )

    # --- the end --------------------------------------------------------------------------------
    @property
    def finish_reasons(self) -> str:
        """How the choices ended, for the log."""
        return ",".join(reason or "-" for reason in self._finishes)

    def ended(self) -> tuple[Ended, ...]:
        """How each choice ended, with what the client was not told yet."""
        return tuple(
            Ended(reason, "" if self._streaming else "".join(texts), tuple(logprobs))
            for reason, texts, logprobs in zip(
                self._finishes, self._texts, self._logprobs, strict=True
            )
        )

    def digest(self) -> bytes:
        """The hash that the consumer's receipt has: of the answer's text, or of all texts as one
        (`texts_as_one`)."""
        if self.choices == 1:
            return self._hash.digest()
        whole = texts_as_one(["".join(texts) for texts in self._texts])
        return hashlib.sha256(whole.encode()).digest()
