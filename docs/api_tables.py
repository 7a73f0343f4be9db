"""The tables of the API reference that no schema holds: events, refusals, ends of an attempt, limits.

What the program decides (names, codes, numbers) is read from the program; a test sees a code without a
meaning here.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

from api_schemas import table

import tunewright.service
from tunewright.config.settings import list_settings
from tunewright.errors import ExitCode
from tunewright.service.extra_config import ALLOWED
from tunewright.service.inference.asking import REFUSED
from tunewright.service.retry import MOST_ATTEMPTS, TRANSIENT_CODES, judge
from tunewright.service.settings import UNLIMITED_BY_ZERO, Limits
from tunewright.service.wording import EXTRAS, FULL, NAMES

SOURCES = Path(tunewright.service.__file__).parent
WORKERS_ONLY = {"missing_blobs", "wrong_hash", "no_such_blob", "lease_lost", "client_closed_request"}
"""Told to workers, or to nobody."""

EVALUATED = "type `metrics`; after an evaluation also `, validation loss=X, full validation loss=X`"
MESSAGES = (
    ("Created fine-tuning job: ID", "info", "the job is there"),
    ("Validating training file: ID", "info", "its files wait for a worker that reads every row"),
    ("Validating training file: ID and validation file: ID", "info", "the same with both files"),
    ("N of N training examples are longer than the model's limit and are cut at the end", "warn", ""),
    ("N of N training examples are too long to learn from and are left out", "warn", ""),
    ("Files validated, moving job to queued state", "info", "the hyperparameters have their values"),
    ("Fine-tuning job started", "info", "a worker trains"),
    ("Fine-tuning job goes on", "info", "a worker trains again after a pause or a lost worker"),
    ("Step N/N: training loss=X", "info", EVALUATED),
    ("Resumed from step N", "info", "an attempt goes on where an earlier one was"),
    ("Fine-tuning job is pausing: it stops after the next step and saves", "info", ""),
    ("Fine-tuning job paused", "info", "saved; `resume` goes on"),
    ("Fine-tuning job resumed", "info", "it waits for a worker"),
    ("The worker stopped; the job waits for another one", "info", "its machine was shut down in order"),
    ("… that trains with NAME on NAME", "info", "the same, where the saved state needs such a worker"),
    ("REASON: it waits for a worker with more memory", "warn", "one with more is there"),
    ("REASON: it is paused", "warn", "a fault that may pass, of a job that was to pause"),
    ("REASON: trying again from the last checkpoint", "warn", "a fault that may pass"),
    ("The checkpoint model of step N could not be stored: REASON", "warn", "the job goes on without it"),
    ("The state of step N could not be stored: REASON", "warn", "a lost worker costs more steps"),
    ("Data: REASON", "info", "what was found in the rows; `warn` where it matters"),
    ("Settings of the run were amended: REASON", "warn", ""),
    (
        "step N jumped: REASON",
        "warn",
        "loss or gradient norm is far above the usual; told of the first such step",
    ),
    ("N steps jumped up to step N", "warn", "at 10, 100, 1000, … of them, and at the end"),
    ("Went back to step N: REASON", "warn", "the numbers went bad; other rows are taken"),
    ("New fine-tuned model created: NAME", "info", ""),
    ("The job has successfully completed", "info", "the last event"),
    ("Fine-tuning job cancelled", "info", "the last event"),
    ("Fine-tuning job failed: REASON", "error", "the last event; `error` of the job has the same"),
)
FIGURES = {
    "step": "optimizer steps that are done",
    "total_steps": "steps of the whole job",
    "train_loss": "loss of the step, per token that counts",
    "train_mean_token_accuracy": "share of those tokens that the model would have guessed",
    "valid_loss": "loss on the validation file",
    "valid_mean_token_accuracy": "accuracy on the validation file",
    "full_valid_loss": "the same as `valid_loss`: the file is always evaluated whole",
    "full_valid_mean_token_accuracy": "the same as `valid_mean_token_accuracy`",
    "learning_rate": "of the step",
    "gradient_norm": "before it is clipped",
    "tokens_per_second": "read in the step, of the whole job",
    "gpu_memory_used": "peak of the device in MB; the process on a CPU",
    "epoch": "passes over the training file so far",
}
REFUSALS = {
    "model_incomplete": "the server has lost bytes of the model; its operator can restore them",
    "invalid_value": "a field has a value that it cannot have",
    "invalid_json": "the body is not JSON",
    "invalid_json_schema": "a JSON schema that answers cannot be held to; `param` is the keyword at fault",
    "invalid_http": "the request is not HTTP as its standards say; the connection is closed",
    "unknown_parameter": "a field is not known",
    "missing_required_parameter": "a field is missing",
    "idempotency_key_reused": "the `Idempotency-Key` came with another body; nothing was made",
    "unsupported_value": "a field asks for what is not there, such as integrations",
    "context_length_exceeded": "the prompt leaves the model no room for an answer",
    "prompt_too_costly": "the model's files take too much computing or memory to read this prompt",
    "unsupported_method": "only the method `supervised` is there",
    "unsupported_parameter": "a field of OpenAI's that this server cannot act on, such as `audio`",
    "conflicting_values": "a setting stands in two places with different values",
    "request_timeout": "the body came too slowly",
    "file_not_found": "no such file in this project; 400 when a job names it",
    "file_in_use": "a job that is not over reads the file",
    "invalid_form": "an upload is no form of the fields that are asked for",
    "unsupported_file": "an upload is an archive, or of another kind that cannot hold rows",
    "invalid_training_file": "a line of an upload cannot be a row; a job fails with this code for its rows",
    "file_too_large": "the upload is above its limit",
    "request_too_large": "the body is above its limit",
    "job_already_completed": "the job is over and cannot be paused, resumed or cancelled",
    "invalid_job_state": "the job is in no state for this call",
    "fine_tune_not_found": "no such job in this project",
    "model_not_found": "no such model in this project; 400 when a job names it",
    "unknown_url": "no such path",
    "method_not_allowed": "the path is there, but not for this method",
    "unsupported_call": "a call of OpenAI's that this server has not; the message says what to do instead",
    "inference_off": "the operator switched chats off",
    "invalid_api_key": "no key, or one that is mistyped, revoked or expired",
    "insufficient_permissions": "the key lacks the scope",
    "wrong_project": "`OpenAI-Project` names another project than that of the key",
    "rate_limit_exceeded": "the key asked too often; `retry-after` tells how long to wait, the client does",
    "too_many_chats": "the project has as many chats or answers in the making as it may; ask again",
    "busy": "the model is being loaded, the device is taken or too many chats wait; the client asks again",
    "disk_full": "the server has no room: nothing was stored, and the client does not try again",
    "database_unavailable": "the server cannot reach its database; the client asks again",
    "insufficient_quota": "the project has as much as it may; the client does not try again",
}
ENDS = {
    ExitCode.DONE: "trained to the end",
    ExitCode.USER_ERROR: "a setting or the model is wrong",
    ExitCode.USAGE: "worker and trainer do not fit together",
    ExitCode.DATA_ERROR: "the rows are wrong: `invalid_training_file`",
    ExitCode.OUT_OF_MEMORY: "the device has no memory left",
    ExitCode.PREEMPTED: "asked to stop, and saved",
    ExitCode.STALLED: "no progress",
    ExitCode.INTERNAL: "a fault of Tunewright",
    None: "killed, or the worker was lost",
}


def event_rows() -> Iterator[str]:
    """The messages, and the figures of a metrics event."""
    yield "Programs parse these words, so they stay as they are. Other messages are warnings of the run."
    rows = [(f"`{message}`", f"`{level}`", when) for message, level, when in MESSAGES]
    yield from ("", *table(("message", "level", ""), rows))
    yield from ("", "`data` of a `metrics` event; a figure that a step does not have is left out:", "")
    names = ["step", "total_steps", *NAMES.values(), *FULL.values(), *EXTRAS]
    yield from table(("figure", ""), [(f"`{name}`", FIGURES[name]) for name in names])


def refusal_rows() -> Iterator[str]:
    """Every code that a call can be refused with, and the statuses it comes with."""
    yield "```json"
    yield '{"error": {"message": "…", "type": "invalid_request_error", "param": "seed", "code": "…"}}'
    yield from ("```", "", "`message` is for people; `code`, where there is one, is for programs.", "")
    rows = [
        (", ".join(map(str, sorted(statuses))), f"`{code}`", REFUSALS.get(code, ""))
        for code, statuses in sorted(refusal_codes().items(), key=lambda item: (min(item[1]), item[0]))
        if code not in WORKERS_ONLY
    ]
    yield from table(("status", "code", "when"), rows)
    yield from (
        "",
        "500: a fault of the server, whose log has the traceback.",
    )


def refusal_codes() -> dict[str, set[int]]:
    """Each code that the service's sources refuse with, and its statuses."""
    found: dict[str, set[int]] = {}
    shared = _constants(ast.parse((SOURCES / "faults.py").read_text(encoding="utf-8")))
    for path in sorted(SOURCES.rglob("*.py")):
        if "worker" in path.relative_to(SOURCES).parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {**shared, **_constants(tree)}
        for node in ast.walk(tree):
            for status, code in _refusal(node, constants):
                found.setdefault(code, set()).add(status)
    for _, code in REFUSED.values():
        found.setdefault(code, set()).add(400)
    return found


def _constants(tree: ast.Module) -> dict[str, object]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _refusal(node: ast.AST, constants: dict[str, object]) -> Iterator[tuple[int, str]]:
    """Status and code of a call of `ApiError` or `bad_value`, and of the code that _invalid picks by kind."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
        names = [ast.unparse(target) for target in node.targets]
        code = node.value.elts[-1]
        if names == ["(message, code)"] and isinstance(code, ast.Constant):
            yield 400, str(code.value)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if node.func.id == "bad_value":
        code = node.args[2] if len(node.args) > 2 else keywords.get("code", ast.Constant("invalid_value"))
        yield 400, str(_value(code, constants))
    elif node.func.id == "ApiError" and "code" in keywords and isinstance(node.args[0], ast.Constant):
        code = _value(keywords["code"], constants)
        if code is not None:
            yield int(str(node.args[0].value)), str(code)


def _value(node: ast.expr, constants: dict[str, object]) -> object:
    if isinstance(node, ast.Constant):
        return node.value
    return constants.get(node.id) if isinstance(node, ast.Name) else None


def attempt_rows() -> Iterator[str]:
    """How often each end of a trainer is tried again."""
    yield (
        "A job is tried again by the [exit code](errors.md#exit-codes) of its trainer alone, from its last "
        f"checkpoint, {MOST_ATTEMPTS} attempts in all. An attempt that got further starts the count anew."
    )
    rows = [
        (
            "none" if code is None else f"{int(code)}",
            meaning,
            "" if code is ExitCode.DONE else f"{_more_attempts(code)}",
        )
        for code, meaning in ENDS.items()
    ]
    yield from ("", *table(("exit code", "the trainer", "tried again, times"), rows))
    names = ", ".join(f"`{name}`" for name in sorted(TRANSIENT_CODES))
    yield from ("", f"Errors that pass by themselves are tried again like a lost worker: {names}.")


def _more_attempts(code: int | None) -> int:
    failures = 0
    while judge(code, None, failures).again:
        failures += 1
    return failures


def extra_rows() -> Iterator[str]:
    """The settings of the run file that a job may have in x_config."""
    yield (
        "Settings of the [run file](config.md) that a job may have in `x_config`, in their sections: "
        '`{"train": {"schedule": "constant"}}`. None is a path, a command or a name to fetch.'
    )
    known = {setting.path: setting for setting in list_settings()}
    rows = [(f"`{path}`", known[path].kind, known[path].help) for path in ALLOWED]
    yield from ("", *table(("setting", "accepts", ""), rows))


def limit_rows() -> Iterator[str]:
    """What one request, job, key or project may take."""
    free = ", ".join(f"`{name}`" for name in sorted(UNLIMITED_BY_ZERO))
    yield f"`tunewright serve --limit NAME=NUMBER` changes them. 0 is no limit for {free}."
    yield ""
    told = _field_docstrings(Limits)
    rows = [
        (f"`{item.name}`", f"{item.default:,}", told[item.name])
        for item in fields(Limits)
        if isinstance(item.default, int)
    ]
    yield from table(("limit", "default", ""), rows)


def _field_docstrings(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
    return {
        field.target.id: ast.literal_eval(text.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
