"""Projects take turns: the many requests of one do not keep another's waiting."""

from __future__ import annotations

from typing import Any, cast

from tunewright.inference.batch import Answer
from tunewright.inference.sampling import Sampler, SamplingOptions
from tunewright.inference.serving.request import Ask, Job, ModelName
from tunewright.inference.serving.shares import MOST_ROWS, next_job
from tunewright.inference.serving.turns import TurnQueue, Turns

MODEL = ModelName("m", "m", None)
CACHE = 1000


def job(name: str, rows: int = 1, cost: int = 1) -> Job:
    """A request of the project that its name begins with."""
    answers = [Answer([1], Sampler(SamplingOptions(), place), 9, frozenset()) for place in range(rows)]
    return Job(name, MODEL, [1], answers, (), cast(Any, None), False, None, cost, project=name[0])


def test_prompts_are_read_in_turn_by_project() -> None:
    waiting: TurnQueue[Ask] = TurnQueue()
    for name in ("a1", "a2", "a3", "a4", "b1", "c1", "b2"):
        waiting.put(Ask(name, MODEL, project=name[0]))
    assert waiting.remove("a3")
    assert not waiting.remove("a3")
    assert [waiting.get().id for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a4"]


def test_who_was_taken_for_nothing_is_first_again() -> None:
    waiting: Turns[Job] = Turns()
    for name in ("a1", "b1"):
        waiting.put(job(name))
    first = next(waiting.heads())
    waiting.take(first)
    waiting.give_back(first)
    assert [each.id for each in waiting.heads()] == ["a1", "b1"]


def test_a_flood_leaves_room_for_others() -> None:
    half = MOST_ROWS // 2
    flood = [job("a1", half), job("a2", half)]
    more, small, large = job("a3"), job("b1"), job("c1", half + 1)

    def chosen(*heads: Job, active: list[Job]) -> Job | None:
        return next_job(heads, active, CACHE)

    assert chosen(job("a2", half), active=flood[:1]), "alone a project may take all"
    assert chosen(more, small, active=flood) is small
    assert chosen(more, large, active=flood) is None
    # One that has answers already does not pass a large one that waits for room; others do.
    assert chosen(large, job("b2"), active=[*flood, small]) is None
    assert chosen(large, job("d1"), active=[*flood, small]) is not None
    assert chosen(large, active=[]) is large


def test_a_flood_of_long_prompts_leaves_memory_for_others() -> None:
    flood = [job("a1", cost=CACHE // 2), job("a2", cost=CACHE // 2)]
    assert next_job([job("a3"), job("b1", cost=CACHE // 2)], flood, CACHE) is not None
    assert next_job([job("b1", cost=CACHE)], flood, CACHE) is None
    assert next_job([job("b1", cost=5 * CACHE)], [], CACHE) is not None, "answered alone"
