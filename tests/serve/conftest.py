"""One library and one server for the tests of a process: making them takes longer than the tests."""

from collections.abc import Iterator

import pytest

from web_library import Made, Running, make_library, running


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_library(tmp_path_factory.mktemp("library").resolve())


@pytest.fixture(scope="session")
def web(made: Made) -> Iterator[Running]:
    with running(made.index, workers=1) as server:
        yield server
