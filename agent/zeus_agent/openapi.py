"""The OpenAPI document of the agent's API, made from what routes and checks go by.

`python -m zeus_agent.openapi --write` renews the page in the documentation, `--check` tells
whether it is current.  The agent serves the same at `GET /v1/openapi.json`.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

from zeus_agent.answers import JSON, STATUS
from zeus_agent.bodies import GPU_UUID, POD_UID, SESSION_NAME
from zeus_agent.operations import OPERATIONS, Access, Operation
from zeus_agent.schemas import Schema, schema_of
from zeus_runtime.protocol import PROTOCOL_VERSION, ApiError, ErrorCode

_PAGE = Path("docs/reference/agent-openapi.json")

_PARAMETERS: dict[str, tuple[Schema, str]] = {
    "session": (SESSION_NAME, "chosen by the caller; a pod's names are its own"),
    "gpu": (GPU_UUID, "the GPU"),
    "pod": (POD_UID, "the pod"),
}
_SERVED_BY_ALL = (ErrorCode.FORBIDDEN, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL)
_BY_TOKEN = (ErrorCode.UNAUTHENTICATED, ErrorCode.IDENTITY_UNAVAILABLE)
_BODY_STATUSES = (400, 408, 413)

_DESCRIPTION = """\
Sets GPU power limits on behalf of training runs, and puts them back.  Limits are watts, times are
seconds.  Every operation is idempotent: a call whose answer was lost may be repeated.

On one machine the agent listens on a Unix socket and the kernel says who calls.  In a cluster it
listens on TCP with TLS, and a pod shows the token of its ServiceAccount, bound to the pod and with
the audience `zeus-agent`.
"""


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    kinds: dict[str, type] = {ApiError.__name__: ApiError}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        for kind in (operation.body, operation.answer):
            if isinstance(kind, type):
                kinds[kind.__name__] = kind
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "zeus-agent",
            "version": f"v{PROTOCOL_VERSION}",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema_of(kind) for name, kind in sorted(kinds.items())},
            "securitySchemes": {
                "podToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "ServiceAccount token bound to the pod, audience zeus-agent; "
                    "not on the Unix socket",
                }
            },
        },
    }


@functools.cache
def text() -> str:
    """Return the document as it is written and served."""
    return json.dumps(document(), indent=2) + "\n"


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"For {operation.access.value}.",
        "parameters": [_parameter(name) for name in _parameter_names(operation.path)],
        "responses": _responses(operation),
    }
    # On the Unix socket nobody has a token: the second alternative.
    described["security"] = [] if operation.access is Access.ANYONE else [{"podToken": []}, {}]
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.is_body_needed,
            "content": {JSON: {"schema": _reference(operation.body)}},
        }
    return described


def _parameter_names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _parameter(name: str) -> dict[str, Any]:
    schema, meaning = _PARAMETERS[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"{meaning}: {schema['description']}",
        "schema": {key: value for key, value in schema.items() if key != "description"},
    }


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if operation.answer is None:
        responses["204"] = {"description": "done"}
    else:
        responses["200"] = {"description": "done", "content": _content(operation)}
    if operation.is_restoring:
        responses["202"] = {
            "description": "the former limit is not back yet; it is saved, and will be put back",
            "content": {JSON: {"schema": _RESTORED}},
        }
    for status, names in sorted(_errors(operation).items()):
        responses[str(status)] = {
            "description": ", ".join(names),
            "content": {JSON: {"schema": _reference(ApiError)}},
        }
    return responses


_RESTORED: Schema = {
    "type": "object",
    "properties": {"restored": {"const": False}},
    "required": ["restored"],
}


def _content(operation: Operation) -> dict[str, Any]:
    if operation.answer == "text":
        return {"text/plain": {"schema": {"type": "string"}}}
    if isinstance(operation.answer, str):
        return {JSON: {"schema": {"type": "object"}}}
    assert operation.answer is not None
    schema = _reference(operation.answer)
    return {JSON: {"schema": {"type": "array", "items": schema} if operation.is_list else schema}}


def _errors(operation: Operation) -> dict[int, list[str]]:
    """Return the codes of an operation's errors by status."""
    codes = list(operation.codes)
    if operation.access is not Access.ANYONE:
        codes += _SERVED_BY_ALL + _BY_TOKEN
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS[code], []).append(code.value)
    statuses = _BODY_STATUSES if operation.body is not None else (400,)
    for status in statuses:
        by_status.setdefault(status, []).append(ErrorCode.BAD_REQUEST.value)
    return by_status


def _reference(kind: type) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zeus_agent.openapi", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help=f"renew {_PAGE}")
    action.add_argument("--check", action="store_true", help=f"fail if {_PAGE} is not current")
    options = parser.parse_args(argv)
    if options.write:
        _PAGE.write_text(text())
        return 0
    if _PAGE.exists() and _PAGE.read_text() == text():
        return 0
    print(f"{_PAGE} is not current: run `make docs` and commit", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
