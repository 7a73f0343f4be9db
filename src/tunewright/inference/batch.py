"""Answers of one model that are made together: one forward pass gives each of them its next token.

Used by the generator for batches of like prompts and by the model server, where answers join and leave at
any step. B rows, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tunewright.inference.closing import is_closing
from tunewright.inference.constraint import Constraint
from tunewright.inference.decoder import Decoder, Decoders, Logits
from tunewright.inference.sampling import Sampler, choose


@dataclass(frozen=True, slots=True)
class Likely:
    """How likely a token was before temperature, penalties and bias, and the likeliest with theirs."""

    log_prob: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True, eq=False)
class Answer:
    """One answer in the making. limit: most tokens it may have. log_probs: how many likeliest tokens are
    told with each, None for no log-probabilities at all. constraint: the grammar that it keeps to, if any."""

    prompt: Sequence[int]
    sampler: Sampler
    limit: int
    stop_ids: frozenset[int]
    log_probs: int | None = None
    constraint: Constraint | None = None
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it met a stop token or its limit."""
        return self.stopped or len(self.tokens) >= self.limit


@dataclass(frozen=True, slots=True)
class Step:
    """What one forward pass gave one answer; token is None where it met its end, or its grammar failed."""

    answer: Answer
    token: int | None
    likely: Likely | None


class Batch:
    """Rows that go on together. Raises EngineOutOfMemory; the answers in it are lost then."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self._decoder: Decoder | None = None
        self._rows: list[Answer] = []

    @property
    def answers(self) -> Sequence[Answer]:
        """Those that are not over."""
        return self._rows

    def accepts(self) -> bool:
        """Whether answers can be added now: those of some models cannot join others on their way."""
        return not self._rows or self._decoder is None or self._decoder.can_join()

    def add(self, answers: Sequence[Answer]) -> Sequence[Step]:
        """Feed the prompts of new answers, equal neighbours once; gives the first token of each."""
        prompts = [answers[0].prompt]
        places = [0]
        for answer in answers[1:]:
            if answer.prompt is not prompts[-1]:
                prompts.append(answer.prompt)
            places.append(len(prompts) - 1)
        decoder = self._decoders()
        logits = decoder.start(prompts)
        if len(places) > len(prompts):
            decoder.keep(places)
            logits = logits.rows(places)
        steps = _take(logits, answers)
        going = [place for place, answer in enumerate(answers) if not answer.is_over]
        if going:
            if len(going) < len(answers):
                decoder.keep(going)
            if self._rows and self._decoder is not None:
                self._decoder.join(decoder)
            else:
                self._decoder = decoder
            self._rows.extend(answers[place] for place in going)
        return steps

    def step(self) -> Sequence[Step]:
        """One token more for each answer that is not over; none when all are."""
        if not self._rows or self._decoder is None:
            return ()
        tokens_B = np.array([answer.tokens[-1] for answer in self._rows], np.int64)
        steps = _take(self._decoder.next(tokens_B), self._rows)
        self._shrink()
        return steps

    def drop(self, answers: Sequence[Answer]) -> None:
        """Go on without some of the answers."""
        for answer in answers:
            answer.stopped = True
        self._shrink()

    def _shrink(self) -> None:
        going = [place for place, answer in enumerate(self._rows) if not answer.is_over]
        if len(going) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in going]
        if not going:
            self._decoder = None
        elif self._decoder is not None:
            self._decoder.keep(going)


def _take(logits: Logits, answers: Sequence[Answer]) -> list[Step]:
    tokens_B = choose(_allowed(logits, answers), [answer.sampler for answer in answers])
    # Of all that the model would have said, whatever the grammar allows.
    likely = _likely(logits, tokens_B, answers)
    steps: list[Step] = []
    for row, (answer, token) in enumerate(zip(answers, tokens_B.tolist(), strict=True)):
        constraint = answer.constraint
        if token in answer.stop_ids or (constraint is not None and constraint.error):
            answer.stopped = True
            steps.append(Step(answer, None, None))
        else:
            answer.tokens.append(token)
            if constraint is not None:
                answer.stopped = constraint.take(token)
            steps.append(Step(answer, token, likely[row]))
    return steps


def _allowed(logits: Logits, answers: Sequence[Answer]) -> Logits:
    """The logits with what the grammars of some answers forbid taken out."""
    rows = [row for row, answer in enumerate(answers) if answer.constraint is not None]
    if not rows:
        return logits
    allowed = [
        answer.constraint.allowed(closing=is_closing(answer.limit, len(answer.tokens)))
        for answer in answers
        if answer.constraint is not None
    ]
    return logits.masked(np.array(rows), np.stack(allowed))


def _likely(logits: Logits, tokens_B: NDArray[np.int64], answers: Sequence[Answer]) -> list[Likely | None]:
    wanted = [answer.log_probs for answer in answers]
    if all(count is None for count in wanted):
        return [None] * len(answers)
    masses_B = logits.masses(np.ones(len(answers), np.float32))
    chosen_B = logits.of(tokens_B) - masses_B
    values_BK, tokens_BK = logits.top(max(1, *(count or 0 for count in wanted)))
    found: list[Likely | None] = []
    for row, count in enumerate(wanted):
        if count is None:
            found.append(None)
            continue
        values = (values_BK[row, :count] - masses_B[row]).tolist()
        top = tuple(zip(tokens_BK[row, :count].tolist(), values, strict=True))
        found.append(Likely(float(chosen_B[row]), top))
    return found
