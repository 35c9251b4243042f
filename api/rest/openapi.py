"""The OpenAPI 3.1 document, made of the table of routes and the structs that it names.

Nothing is written twice: paths, permissions, statuses and problems come from the routes, schemas
and their rules from the types that validate.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import msgspec

from taskforge_server.api.rest.media import JSON_TYPE, MSGPACK_TYPE
from taskforge_server.api.rest.problems import CONTENT_TYPE, KINDS, TYPE_PREFIX, Kind, Problem
from taskforge_server.api.rest.routes import EVENTS_TYPE, Route
from taskforge_server.api.rest.schemas import UuidText
from taskforge_server.api.service.allowances import is_rated
from taskforge_server.engine import limits
from taskforge_server.engine.shard.keys import CALLERS_KEY

REF = "#/components/schemas/{name}"
ABOUT = """\
TaskForge runs background jobs. A submit that was answered is durable; every job runs at least once
and ends `succeeded`, `failed` or `cancelled`.

Bodies are JSON or MessagePack, by `Content-Type` and `Accept`. In MessagePack a payload given as
`bin` is taken as JSON text, any other value is turned into JSON; payloads, results and errors come
back as `bin` with JSON text. Errors are problem documents (RFC 9457): programs compare `code`.

Every answer has an `X-Request-Id`: the one that the request gave, if it is 1 to 128 letters, digits
or `._:/+=@-`, else a new one. It stands in the server's log lines and in the audit log.
"""

_ALWAYS = ("not_acceptable", "internal", "unavailable")
_WITH_KEY = ("unauthenticated", "permission_denied")
_WITH_BODY = (
    "malformed_body",
    "repeated_field",
    "request_timeout",
    "too_large",
    "unsupported_media_type",
    "invalid_input",
    "overloaded",
    "share_used_up",
)
_PARAMETERS = {
    "queue": {"type": "string", "description": "name or id of a queue"},
    "schedule": {"type": "string", "description": "name or id of a schedule"},
    "job_id": {"description": "id of a job"},
    "worker_id": {"description": "id of a worker"},
    "project_id": {"description": "id of a project"},
    "user_id": {"description": "id of a person"},
    "invitation_id": {"description": "id of an invitation"},
    "api_key_id": {"description": "id of an API key"},
}
_RETRY_AFTER = {
    "Retry-After": {"schema": {"type": "integer"}, "description": "seconds to wait"},
}
_RATE = {
    "RateLimit-Limit": {
        "schema": {"type": "integer"},
        "description": "requests a second that the project may send; missing: any number",
    },
    "RateLimit-Remaining": {
        "schema": {"type": "integer"},
        "description": "how many of them may come at once now",
    },
    "RateLimit-Reset": {
        "schema": {"type": "integer"},
        "description": "seconds until that is as much as it can be",
    },
}


def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """The whole document."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    for schema in (*schemas, *components.values()):
        _portable(schema)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TaskForge",
            "version": version("taskforge-server"),
            "description": ABOUT,
        },
        "security": [{"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "an API key of a project, or the access token of a person",
                }
            },
        },
    }


def _portable(schema: Any) -> None:
    """Regular expressions as JSON Schema has them: `$` ends the text, `\\Z` means nothing."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            schema["pattern"] = schema["pattern"].replace("\\Z", "$")
        for value in schema.values():
            _portable(value)
    elif isinstance(schema, list):
        for value in schema:
            _portable(value)


def _types(routes: tuple[Route, ...]) -> list[Any]:
    types: dict[Any, None] = {Problem: None, UuidText: None}
    for route in routes:
        for kind in (route.body, route.reply, route.reply_msgpack, route.reply_waited):
            if kind is not None:
                types[kind] = None
        for field in msgspec.structs.fields(route.query):
            types[field.type] = None
    return list(types)


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route, schema_of),
        "responses": _responses(route, schema_of),
    }
    if route.permission is None:
        operation["security"] = []
    else:
        operation["description"] = f"Wants the permission `{route.permission}`."
        operation["x-permission"] = route.permission
    if route.body is not None:
        form: dict[str, Any] = {"schema": schema_of[route.body]}
        shown = form if route.example is None else {**form, "example": route.example}
        operation["requestBody"] = {
            "required": True,
            "content": {JSON_TYPE: shown, MSGPACK_TYPE: form},
        }
    return operation


def _parameters(route: Route, schema_of: dict[Any, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in route.path.split("/"):
        if part.startswith("{"):
            name = part[1:-1]
            schema = {**_PARAMETERS[name]}
            if "type" not in schema:
                schema |= schema_of[UuidText]
            found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for field in msgspec.structs.fields(route.query):
        schema = {**schema_of[field.type]}
        if field.default is not None and field.default is not msgspec.NODEFAULT:
            schema["default"] = field.default
        parameter = {"name": field.encode_name, "in": "query", "schema": _given(schema)}
        found.append(parameter | ({"required": True} if field.required else {}))
    if route.idempotent:
        about = (
            "Repeating a request with the same key and body gives the first answer, for at least "
            f"{limits.IDEMPOTENCY_KEY_RETENTION_S // 3600} hours."
        )
        schema = {"type": "string", "pattern": f"^{CALLERS_KEY}$"}
        found.append(
            {"name": "Idempotency-Key", "in": "header", "schema": schema, "description": about}
        )
    if route.reply_type == EVENTS_TYPE:
        about = "The id of the last event that was seen: what came behind it follows."
        schema = schema_of[UuidText]
        found.append(
            {"name": "Last-Event-ID", "in": "header", "schema": schema, "description": about}
        )
    return found


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is absent or has a value: there is no null in a query string."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) != 1:
        return schema
    return {**{name: value for name, value in schema.items() if name != "anyOf"}, **choices[0]}


def _responses(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"description": _summary(route)}
    if route.reply_type is not None:
        about["content"] = {route.reply_type: {}}
    elif route.reply is not None:
        about["content"] = _content(route, schema_of)
    headers: dict[str, Any] = {}
    if route.idempotent:
        headers["Idempotent-Replay"] = {
            "schema": {"const": "true"},
            "description": "the answer is the one that the key got first",
        }
    if is_rated(route.permission):
        headers |= _RATE
    if headers:
        about["headers"] = headers
    responses: dict[str, Any] = {str(route.status): about}
    for status in route.other_statuses:
        responses[str(status)] = about
    by_status: dict[int, list[Kind]] = {}
    for code in _problem_codes(route):
        by_status.setdefault(KINDS[code].status, []).append(KINDS[code])
    for status, kinds in sorted(by_status.items()):
        responses.setdefault(str(status), _problem(status, kinds, schema_of))
    return responses


def _summary(route: Route) -> str:
    kind = route.reply
    if kind is None or kind.__doc__ is None:
        return route.summary
    return " ".join(kind.__doc__.split())


def _content(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    schema = schema_of[route.reply]
    if route.reply_waited is not None:
        schema = {"anyOf": [schema_of[route.reply_waited], schema]}
    packed = schema if route.reply_msgpack is None else schema_of[route.reply_msgpack]
    return {JSON_TYPE: {"schema": schema}, MSGPACK_TYPE: {"schema": packed}}


def _problem_codes(route: Route) -> Iterable[str]:
    codes = [*_ALWAYS, *route.problems]
    if route.idempotent:
        codes.append("idempotency_key_reused")
    if route.permission is not None:
        codes += _WITH_KEY
    if is_rated(route.permission):
        codes.append("rate_limited")
    if route.body is not None:
        codes += _WITH_BODY
    if msgspec.structs.fields(route.query) or "{" in route.path:
        codes += ["invalid_input", "malformed_request"]
    return dict.fromkeys(codes)


def _problem(status: int, kinds: list[Kind], schema_of: dict[Any, Any]) -> dict[str, Any]:
    examples = {
        kind.code: {
            "value": {
                "type": TYPE_PREFIX + kind.code,
                "title": kind.title,
                "status": kind.status,
                "detail": kind.about,
                "code": kind.code,
            }
        }
        for kind in kinds
    }
    answer: dict[str, Any] = {
        "description": "; ".join(f"`{kind.code}`: {kind.about}" for kind in kinds),
        "content": {CONTENT_TYPE: {"schema": schema_of[Problem], "examples": examples}},
    }
    if status in (429, 503):
        answer["headers"] = _RETRY_AFTER
    return answer
