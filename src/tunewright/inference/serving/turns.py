"""Things that wait, by the project that they are of: projects take turns, so that the many requests of one do
not keep the few of another waiting."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Owned(Protocol):
    """Anything of a project, with an id."""

    @property
    def id(self) -> str: ...
    @property
    def project(self) -> str: ...


Item = TypeVar("Item", bound=Owned)


class Turns(Generic[Item]):
    """First come, first served within a project; between projects, whose turn was longest ago."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def put(self, item: Item) -> None:
        """The item waits behind those of its project."""
        self._lines.setdefault(item.project, deque()).append(item)

    def heads(self) -> Iterator[Item]:
        """The first of each project, in the order of their turns."""
        return iter([line[0] for line in self._lines.values()])

    def take(self, item: Item) -> None:
        """The first of a project has its turn: the project waits behind the others now."""
        line = self._lines.pop(item.project)
        line.popleft()
        if line:
            self._lines[item.project] = line

    def give_back(self, item: Item) -> None:
        """An item that was taken had no turn after all; it and its project are the first again."""
        self._lines.setdefault(item.project, deque()).appendleft(item)
        self._lines.move_to_end(item.project, last=False)

    def remove(self, item_id: str) -> bool:
        """Whether an item of this id waited. It does not any more."""
        for project, line in self._lines.items():
            for item in line:
                if item.id == item_id:
                    line.remove(item)
                    if not line:
                        del self._lines[project]
                    return True
        return False


class TurnQueue(Generic[Item]):
    """Turns between threads."""

    def __init__(self) -> None:
        self._turns: Turns[Item] = Turns()
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """The item waits for its turn."""
        with self._changed:
            self._turns.put(item)
            self._changed.notify()

    def get(self) -> Item:
        """The next one, which is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._turns))
            item = next(self._turns.heads())
            self._turns.take(item)
            return item

    def remove(self, item_id: str) -> bool:
        """Whether an item of this id waited. It does not any more."""
        with self._changed:
            return self._turns.remove(item_id)
