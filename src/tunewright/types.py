"""Frozen values that cross layers. Arrays are NumPy; nothing here knows an engine.

Shape letters: B rows of a micro-batch, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["system", "user", "assistant", "tool"]
RowLayout = Literal["packed", "padded", "single"]
"""Documents as rows of a forward pass, the fullest first: end to end, one a row with padding behind it, or
one a pass without padding."""
JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


@dataclass(frozen=True, slots=True)
class SourceRef:
    """Where a row came from. `line` is 1-based: the line of a JSONL or CSV file, else the row number."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant makes. `arguments` stays JSON text, so that no reader can reshape it."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` is the loss weight of an assistant turn; None means by the run's `train_on`."""

    role: Role
    content: str
    weight: float | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat row in the one internal form. `tools` holds one JSON text per tool definition."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...]
    source: SourceRef


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row without chat structure: pieces of text, each with its loss weight (raw text: one piece, 1.0)."""

    segments: tuple[tuple[str, float], ...]
    source: SourceRef


Row = Conversation | TextRow


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised row.

    tokens_T: int32. weights_T: float32, the loss weight of each token as a label; weights_T[0] is 0
    because nothing predicts the first token.
    """

    tokens_T: NDArray[np.int32]
    weights_T: NDArray[np.float32]
    source: SourceRef

    def __len__(self) -> int:
        return len(self.tokens_T)


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: rows of whole documents laid end to end, then padding.

    tokens_BT, positions_BT: int32; positions restart at 0 with each document. weights_BT: float32, the
    loss weight of token [b, t] as the label of position [b, t-1]; 0 for the first token of a document
    and for padding. doc_lengths[b]: lengths of the documents of row b in order; what is left of T is
    padding. A token sees only earlier tokens of its own document.
    """

    tokens_BT: NDArray[np.int32]
    positions_BT: NDArray[np.int32]
    weights_BT: NDArray[np.float32]
    doc_lengths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """All micro-batches of one optimizer step, with the sums that the loop needs beforehand.

    position: source rows consumed once this step is done, over all epochs. epoch: fraction of passes over
    the data by then. loss_weight: sum of weights over all micro-batches and ranks, the denominator.
    loss_tokens: labels with weight > 0, likewise. tokens: real tokens (no padding) of this rank. examples:
    source rows. source_state: for data that can be read once, says which rows were read by then.
    """

    micro_batches: tuple[Batch, ...]
    position: int
    epoch: float
    loss_weight: float
    loss_tokens: int
    tokens: int
    examples: int
    source_state: str = ""


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over labels, never means: loss = Σ weight · negative log-likelihood (nats), weight = Σ weight,
    tokens = labels with weight > 0, correct = those of them predicted by argmax."""

    loss: float = 0.0
    weight: float = 0.0
    tokens: int = 0
    correct: int = 0

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(
            self.loss + other.loss,
            self.weight + other.weight,
            self.tokens + other.tokens,
            self.correct + other.correct,
        )


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one optimizer step did. gradient_norm is the global L2 norm before clipping; skipped means the
    update was not applied because the norm was non-finite or above the threshold. rescaled: it was skipped
    because an fp16 loss scale was too high, which is lower now; that says nothing about the run."""

    sums: LossSums
    gradient_norm: float
    skipped: bool
    rescaled: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """A tensor as bytes: `dtype` by its safetensors name (F32, BF16, U8 …), C order, little endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class EngineState:
    """All that an engine needs to go on exactly: arrays by canonical name, the rest JSON."""

    arrays: Mapping[str, Array]
    values: Mapping[str, JsonValue]
