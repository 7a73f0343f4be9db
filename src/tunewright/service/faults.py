"""What the API answers when it refuses: a status, and the four fields of OpenAI's error envelope.

The official client picks its exception class by the status alone. 409 is retried by it, so it is never used
for a job that is in the wrong state. Another project's object is answered exactly as a missing one.
"""

from __future__ import annotations

from collections.abc import Mapping

INVALID_REQUEST = "invalid_request_error"
AUTHENTICATION = "authentication_error"
PERMISSION = "permission_error"
SERVER = "server_error"
LEASE_LOST = "lease_lost"
BAD_FILE = "invalid_training_file"
"""OpenAI's code for a file that cannot be trained on, in refusals and in the error of a job."""


class ApiError(Exception):
    """A refusal. message: one sentence that says what to do. param: the field at fault. code: what programs
    compare with."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """The envelope, as JSON."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}


def bad_value(message: str, param: str, code: str = "invalid_value") -> ApiError:
    """400 for one field of the request."""
    return ApiError(400, message, param=param, code=code)


def unknown_field(name: str) -> ApiError:
    """400 for a field that no call has: most are typing errors."""
    return bad_value(f"Unrecognized request argument supplied: {name}", name, "unknown_parameter")


def no_such_file(file_id: str) -> ApiError:
    """404 for a file that is not there, or is another project's."""
    message = f"No such File object: {file_id}. GET /v1/files lists yours"
    return ApiError(404, message, param="id", code="file_not_found")


def no_such_job(job_id: str) -> ApiError:
    """404 for a job that is not there, or is another project's."""
    message = f"Could not find fine tune: {job_id}. GET /v1/fine_tuning/jobs lists yours"
    return ApiError(404, message, param="fine_tuning_job_id", code="fine_tune_not_found")


def no_such_model(name: str) -> ApiError:
    """404 for a model that is not there, or is another project's."""
    message = f"The model '{name}' does not exist. GET /v1/models lists those that do"
    return ApiError(404, message, param="model", code="model_not_found")


def disk_full() -> ApiError:
    """507 for a write that found no room. The official client would try again at once, in vain."""
    return ApiError(
        507,
        "The disk of the server is full and nothing was stored. Its operator has to make room",
        type=SERVER,
        code="disk_full",
        headers={"x-should-retry": "false"},
    )


def lease_lost(job_id: str) -> ApiError:
    """409 for a worker that writes to a job which it no longer holds."""
    return ApiError(409, f"This worker does not hold {job_id} any more", code=LEASE_LOST)
