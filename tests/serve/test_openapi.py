"""If these fail, the API does not do what its own description says, or falls over something odd."""

import json
from copy import deepcopy
from typing import Any

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.testclient import TestClient

from lookhear.serve.app import create_app
from lookhear.serve.routes import api
from lookhear.serve.security import COOKIE, Access, access_of
from web_library import Made, Running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
SILENT = [
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.filter_too_much,
    hypothesis.HealthCheck.data_too_large,
]


def operations() -> list[str]:
    """Method and path of everything that the API does."""
    app = FastAPI()
    app.include_router(api)
    return [f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods]


@pytest.fixture(scope="module")
def described(web: Running) -> Any:
    app = create_app(web.archive, web.workshop, Access(hosts=frozenset({"testserver", "localhost"})))
    return schemathesis.openapi.from_asgi("/api/openapi.json", app)


@pytest.fixture(scope="module")
def real(made: Made, web: Running) -> dict[str, Any]:
    upload = web.upload(made.clip(0))
    return {"file_id": web.file_id(made.clip(1)), "id": upload["id"], "example_id": upload["id"]}


def try_out(described: Any, operation: str, *, times: int, real: dict[str, Any] | None = None) -> None:
    """Sends what the description allows, and what it does not; with `real` ids, of what there is."""
    method, path = operation.split()
    checks = CHECKS if real is None else [check for check in CHECKS if check is not negative_data_rejection]

    @hypothesis.settings(
        max_examples=times, deadline=None, suppress_health_check=SILENT, derandomize=True, database=None
    )
    @hypothesis.given(case=described[path][method].as_strategy())
    def send(case: Any) -> None:
        if real is not None:
            case.path_parameters = with_real(deepcopy(case.path_parameters), real)
            if isinstance(case.body, (dict, list)):
                case.body = with_real(deepcopy(case.body), real)
        case.call_and_validate(checks=checks, timeout=300)

    send()


def with_real(value: Any, real: dict[str, Any]) -> Any:
    """The same with ids of files and examples that there are."""
    if isinstance(value, dict):
        return {key: real.get(key, with_real(item, real)) for key, item in value.items()}
    if isinstance(value, list):
        return [with_real(item, real) for item in value]
    return value


@pytest.mark.parametrize("operation", operations())
def test_what_is_described_holds(described: Any, operation: str) -> None:
    try_out(described, operation, times=3)


@pytest.mark.ci
@pytest.mark.parametrize("operation", operations())
def test_it_holds_for_much_that_is_sent(described: Any, real: dict[str, Any], operation: str) -> None:
    try_out(described, operation, times=40)
    try_out(described, operation, times=20, real=real)


@pytest.mark.slow
@pytest.mark.parametrize("operation", operations())
def test_it_holds_whatever_is_sent(described: Any, real: dict[str, Any], operation: str) -> None:
    try_out(described, operation, times=400)
    try_out(described, operation, times=100, real=real)


def test_the_token_is_described_where_there_is_one(web: Running) -> None:
    token = "a-token-that-nobody-guesses"
    client = TestClient(
        create_app(web.archive, web.workshop, access_of("127.0.0.1", token=token)), base_url=web.client.base_url
    )
    description = client.get("/api/openapi.json", headers={"authorization": f"Bearer {token}"}).json()
    assert description["components"]["securitySchemes"] == {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    }
    assert description["security"] == [{"token": []}, {"session": []}]
    assert description["paths"]["/api/session"]["post"]["security"] == [{"token": []}]
    plain = web.client.get("/api/openapi.json").json()
    assert "security" not in plain
    assert "securitySchemes" not in plain["components"]


def test_the_description_is_complete(web: Running) -> None:
    description = web.client.get("/api/openapi.json").json()
    assert description["info"]["title"] == "lookhear"
    all_of_it = [
        (path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(all_of_it) >= 16
    names = [operation["operationId"] for _, _, operation in all_of_it]
    assert len(set(names)) == len(names)
    for path, method, operation in all_of_it:
        assert operation["summary"], path
        assert operation["description"], path
        assert "422" in operation["responses"], (path, method)
        for status, answer in operation["responses"].items():
            if status == "422":
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
    assert "HTTPValidationError" not in json.dumps(description)
