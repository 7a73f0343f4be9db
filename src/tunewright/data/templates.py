"""The model's tokenizer and chat template, without torch.

`load_tokenizer` reads the folder through `PreTrainedTokenizerFast`, because transformers' `Auto*` classes
import torch when it is installed. Data preparation, `data check` and generation all render and tokenise
through the one ChatTokenizer, so that training sees exactly the text that inference sends.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import jinja2
from tokenizers import Tokenizer

from tunewright.data.control_tokens import ControlTokens
from tunewright.data.foreign import foreign
from tunewright.data.special_tokens import find_turn_end, match_any, shared_length, special_tokens
from tunewright.data.template_fields import parse_field, template_message
from tunewright.errors import DataError, ModelError
from tunewright.types import JsonValue, Message, Role, ToolCall

# Templates that print today's date would make a run resumed tomorrow train on other tokens.
TEMPLATE_DATE = datetime(2025, 1, 1)
_DATE_CALL = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")

# What templates raise, on purpose and by what they compute.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)

_PROBE_CALL = ToolCall(name="probe", arguments='{"x": 1}')
_PROBE = (Message("user", "probe question"), Message("assistant", "", tool_calls=(_PROBE_CALL,)))


def load_tokenizer(folder: Path, chat_template: Path | None) -> ChatTokenizer:
    """The tokenizer of a model folder with its own chat template, or the one in the file `chat_template`.

    Raises ModelError when the folder has no readable tokenizer.json or the template file is missing.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            "the model has no tokenizer.json",
            where=str(folder),
            hint="use a model folder saved with its fast tokenizer (tokenizer.save_pretrained)",
            code="model.no-tokenizer",
        )
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that the class differs from tokenizer_config, which is intended
    try:
        with foreign():
            hugging = cast(Any, PreTrainedTokenizerFast).from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise ModelError(
            f"the tokenizer cannot be read: {error}", where=str(folder), code="model.bad-tokenizer"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    template = _read_template(chat_template) if chat_template else _own_template(hugging)
    return ChatTokenizer(hugging, template, where=str(folder), extra_stops=_generation_stops(folder))


class ChatTokenizer:
    """Renders conversations and turns text into token ids with character offsets.

    `chat_template` is None when the model has none; rendering then raises ModelError.
    """

    def __init__(
        self, hugging: Any, template: str | None, *, where: str, extra_stops: Sequence[int] = ()
    ) -> None:
        self._hugging = hugging
        self.backend: Tokenizer = hugging.backend_tokenizer
        self._where = where
        self._render_template = _fix_date(template) if template else None
        self.chat_template = template
        self.bos_id: int | None = hugging.bos_token_id
        self.eos_id: int | None = hugging.eos_token_id
        self.vocab_size: int = len(hugging)
        self.text_prefix_ids = _text_prefix(hugging)
        _plain_offsets(self.backend)
        self.special_pattern = match_any(special_tokens(hugging))
        self.special_ids = frozenset(special_tokens(hugging).values())
        self._openings: dict[Role, str] = {}
        self._is_parsing = False
        self._mapping_arguments = self._wants_mapping_arguments()
        special = {*special_tokens(hugging), *hugging.all_special_tokens}
        self.control = ControlTokens(
            self.backend, hugging.added_tokens_decoder, special, self._find_delimiters()
        )
        stops = {i for i in (self.eos_id, *extra_stops, *self._turn_end_ids()) if i is not None}
        self.stop_ids: tuple[int, ...] = tuple(sorted(stops))

    def parsing_control_tokens(self) -> ChatTokenizer:
        """This tokenizer, but control tokens that content spells are read as such and can forge turns."""
        parsing = copy.copy(self)
        parsing._is_parsing = True
        return parsing

    @property
    def pad_id(self) -> int:
        """Id that fills padded places. Never used to find what is padding."""
        pad = self._hugging.pad_token_id
        return int(pad if pad is not None else self.eos_id or 0)

    @property
    def largest_id(self) -> int:
        """The largest token id that `encode` can give."""
        return max(self.backend.get_vocab(with_added_tokens=True).values())

    def digest(self) -> str:
        """sha256 over what decides about tokens: the tokenizer's files and the chat template."""
        digest = hashlib.sha256((self.chat_template or "").encode())
        for name in (
            "tokenizer.json",
            "tokenizer_config.json",
            "added_tokens.json",
            "special_tokens_map.json",
        ):
            path = Path(self._where) / name
            digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[str] = (),
        *,
        generation_prompt: bool = False,
        variables: Mapping[str, JsonValue] | None = None,
    ) -> str:
        """Text of the conversation; with `generation_prompt` it ends where the assistant would begin.
        variables: more that the template may ask for, such as `enable_thinking`.

        Control tokens that its content spells are marked (see ControlTokens): `encode_rendered` makes tokens
        of it.

        Raises DataError when the template refuses the conversation, ModelError when there is no template.
        """
        if self._render_template is None:
            raise ModelError(
                "the model has no chat template, and chat rows need one",
                where=self._where,
                hint="set data.chat_template to a Jinja file, or use prompt/completion or text rows",
                code="model.no-chat-template",
            )
        try:
            mapping = self._mapping_arguments
            return self._apply(messages, tools, generation_prompt, mapping, self.control, variables)
        # Python compiles what jinja makes of it, and has limits of its own.
        except (jinja2.TemplateSyntaxError, SyntaxError) as error:
            raise ModelError(
                f"the chat template is not valid Jinja: {error}",
                where=f"{self._where} line {error.lineno}",
                code="model.bad-chat-template",
            ) from error
        except _TEMPLATE_FAULTS as error:
            raise DataError(
                f"the chat template refuses this conversation: {error}",
                hint="the template may not know this role, this order of roles, or tools",
                code="data.template-refused",
            ) from error

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of `text` as it stands (no tokens added) and the character at which each starts."""
        with foreign(text):
            encoding = self.backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def encode_rendered(self, text: str) -> tuple[list[int], list[int]]:
        """As `encode`, for a text of `render`: control tokens that content spells become plain text."""
        with foreign(text):
            return self.encode(text) if self._is_parsing else self.control.encode(text)

    def encode_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[str] = (),
        variables: Mapping[str, JsonValue] | None = None,
    ) -> list[int]:
        """Token ids of the conversation so far, ready for the assistant to continue."""
        text = self.render(messages, tools, generation_prompt=True, variables=variables)
        return self.encode_rendered(text)[0]

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a plain text prompt, with the start tokens that this tokenizer puts before a text."""
        return [*self.text_prefix_ids, *self.encode(text)[0]]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids. Special tokens are left out unless `skip_special` is False."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    def opening_stop(self, role: Role) -> str:
        """The token that opens a turn of `role` after an answer, if generation stops at it; else empty."""
        if role not in self._openings:
            self._openings[role] = self._find_opening(role)
        return self._openings[role]

    def token_text(self, token_id: int) -> str:
        """The vocabulary entry of one token, for looking at."""
        return str(self.backend.id_to_token(token_id) or f"<id {token_id}>")

    def fingerprint(self) -> str:
        """Text that changes when anything changes that turns a row into tokens."""
        return f"{self.backend.to_str()}\n{self.chat_template}"

    def _apply(
        self,
        messages: Sequence[Message],
        tools: Sequence[str],
        generation_prompt: bool,
        mapping: bool,
        control: ControlTokens | None = None,
        variables: Mapping[str, JsonValue] | None = None,
    ) -> str:
        fields: list[JsonValue] = [template_message(message, mapping=mapping) for message in messages]
        definitions: list[JsonValue] = [parse_field(tool, "the tool definition") for tool in tools]
        more: list[JsonValue] = [{**(variables or {})}]
        text = self._fill(fields, definitions, more, generation_prompt)
        if control is None or self._is_parsing:
            return text
        # Rendered as they stand first: what the template refuses to have in a text stays refused.
        parts = [fields, definitions, more]
        marked = [[control.mark(each) for each in part] for part in parts]
        if marked == parts:
            return text
        return control.unescape(self._fill(marked[0], marked[1], marked[2], generation_prompt))

    def _fill(
        self,
        messages: list[JsonValue],
        tools: list[JsonValue],
        variables: list[JsonValue],
        generation_prompt: bool,
    ) -> str:
        more = cast(dict[str, Any], variables[0])
        with foreign(messages):
            return str(
                self._hugging.apply_chat_template(
                    messages,
                    tools=tools or None,
                    chat_template=self._render_template,
                    add_generation_prompt=generation_prompt,
                    tokenize=False,
                    **more,
                )
            )

    def _wants_mapping_arguments(self) -> bool:
        """False for templates that paste the arguments of a call as text (DeepSeek) and fail on a mapping."""
        if self._render_template is None:
            return True
        for mapping in (True, False):
            try:
                self._apply(_PROBE, (), False, mapping)
            except (*_TEMPLATE_FAULTS, SyntaxError):
                continue
            return mapping
        return True

    def _find_delimiters(self) -> set[str]:
        """Added tokens around turns. Some tokenizers do not count them as special."""
        added = match_any(token.content for token in self._hugging.added_tokens_decoder.values())
        question, answer = Message("user", "question"), Message("assistant", "answer")
        try:
            plain, prompted, answered = (
                self._apply(messages, (), is_prompt, self._mapping_arguments)
                for messages, is_prompt in (
                    ((question,), False),
                    ((question,), True),
                    ((question, answer), False),
                )
            )
        except (*_TEMPLATE_FAULTS, SyntaxError):
            return set()
        header = added.search(prompted, shared_length(plain, prompted))
        end = find_turn_end(answered, 0, added)
        return {
            *added.findall(plain),
            *([header.group()] if header else []),
            *([answered[slice(*end)]] if end else []),
        }

    def _find_opening(self, role: Role) -> str:
        before = _PROBE if role == "tool" else (Message("user", "question"), Message("assistant", "answer"))
        try:
            text, longer = self.render(before), self.render((*before, Message(role, "next")))
        except DataError:
            return ""
        opening = self.special_pattern.match(longer, len(text)) if longer.startswith(text) else None
        is_stop = opening is not None and self.backend.token_to_id(opening.group()) in self.stop_ids
        return opening.group() if opening and is_stop else ""

    def _turn_end_ids(self) -> list[int]:
        """Ids of the token that closes an assistant turn, found by rendering one."""
        try:
            text = self.render((Message("user", "question"), Message("assistant", "answer")))
        except (DataError, ModelError):
            return []
        end = find_turn_end(text, 0, self.special_pattern)
        return self.encode(text[end[0] : end[1]])[0][:1] if end else []


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the chat template cannot be read: {error}",
            where=f"data.chat_template ({path})",
            code="model.no-chat-template",
        ) from error


def _own_template(hugging: Any) -> str | None:
    template = cast(str | dict[str, str] | None, hugging.chat_template)
    return template.get("default") if isinstance(template, dict) else template


def _fix_date(template: str) -> str:
    return _DATE_CALL.sub(lambda match: repr(TEMPLATE_DATE.strftime(match.group(2))), template)


def _generation_stops(folder: Path) -> list[int]:
    try:
        config = cast(JsonValue, json.loads((folder / "generation_config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
    eos = config.get("eos_token_id") if isinstance(config, dict) else None
    return [i for i in (eos if isinstance(eos, list) else [eos]) if isinstance(i, int)]


def _text_prefix(hugging: Any) -> list[int]:
    """What the tokenizer puts before a text (usually the bos token, often nothing)."""
    marked: list[int] = hugging("a")["input_ids"]
    plain: list[int] = hugging("a", add_special_tokens=False)["input_ids"]
    for start in range(len(marked) - len(plain) + 1):
        if marked[start : start + len(plain)] == plain:
            return marked[:start]
    return []


def _plain_offsets(backend: Any) -> None:
    # The byte-level post-processor trims white space from offsets, which would move token starts.
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
