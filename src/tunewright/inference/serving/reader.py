"""Requests into jobs, one after the other, in a thread of its own: answers in the making do not wait, and
projects take turns.

What is foreign about a prompt, its template and its tokenizer, is left to the prompt process.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from tokenizers import Tokenizer

from tunewright.inference.constraint import GrammarVocabulary
from tunewright.inference.detokenize import TokenBytes
from tunewright.inference.serving.attempt import attempt
from tunewright.inference.serving.prompt_process import PromptProcess
from tunewright.inference.serving.request import Ask, Job, ModelName, Reading, prepare
from tunewright.inference.serving.shelf import base_key
from tunewright.inference.serving.told import Voice
from tunewright.inference.serving.turns import TurnQueue
from tunewright.inference.vocabulary import Vocabulary
from tunewright.models.arch import load_arch
from tunewright.models.resolve import resolve_model

KEPT = 16


class Reader:
    """Reads requests in turn. done: takes the finished job. failed: takes the request and what was wrong."""

    def __init__(
        self,
        done: Callable[[Job], None],
        failed: Callable[[str, Exception], None],
        process: PromptProcess | None = None,
    ) -> None:
        self._done, self._failed = done, failed
        self._process = process or PromptProcess()
        self._asks: TurnQueue[Ask] = TurnQueue()
        self._known: OrderedDict[str, Reading] = OrderedDict()
        threading.Thread(target=self._read, daemon=True).start()

    def put(self, ask: Ask) -> None:
        """Read this request when its turn comes."""
        self._asks.put(ask)

    def cancel(self, ask_id: str) -> bool:
        """Whether a request still waited to be read; it is not read any more."""
        return self._asks.remove(ask_id)

    def _read(self) -> None:
        self._process.start()
        while True:
            ask = self._asks.get()
            job = attempt(partial(self._prepare, ask), partial(self._failed, ask.id))
            if job is not None:
                self._done(job)

    def _prepare(self, ask: Ask) -> Job:
        return prepare(ask, self._reading(ask.model), self._process)

    def _reading(self, model: ModelName) -> Reading:
        # Fetching a model may take minutes, which are not the prompt's.
        resolve_model(model.base)
        known = self._known.get(model.name) or self._open(model)
        self._known[model.name] = known
        self._known.move_to_end(model.name)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known

    def _open(self, model: ModelName) -> Reading:
        files = resolve_model(base_key(model))
        arch = load_arch(files.folder)
        own = model.folder is not None and (model.folder / "tokenizer.json").is_file()
        folder = model.folder if own and model.folder else files.folder
        with tempfile.TemporaryDirectory(prefix="tunewright-") as scratch:
            saved = Path(scratch) / "vocabulary.json"
            told = self._process.ask({"do": "open", "folder": str(folder), "save": str(saved)})
            backend = Tokenizer.from_file(str(saved))
        vocabulary = Vocabulary(
            backend, frozenset(told["special_ids"]), frozenset(told["stop_ids"]), told["largest_id"]
        )
        bytes_per_token = 2 * 4 * arch.layers * arch.kv_heads * arch.head_size
        voice = Voice(vocabulary, TokenBytes(vocabulary))
        grammars = cache(partial(GrammarVocabulary, vocabulary, voice.token_bytes))
        return Reading(folder, vocabulary, voice, grammars, arch.max_positions, bytes_per_token)
