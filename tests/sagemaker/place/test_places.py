"""The places behind their one interface."""

import ast
import inspect

import pytest

from launching import REPOSITORY
from place.base import Place
from place.find import PLACES, make_place

MODULES = sorted((REPOSITORY / "sagemaker").glob("*.py"))


@pytest.mark.parametrize("name", PLACES)
def test_every_place_has_all_of_the_interface(tmp_path, name):
    place = make_place(name, tmp_path, "eu-west-1")
    assert place.name == name
    for attribute in Place.__annotations__:
        assert hasattr(place, attribute)
    for method, declared in inspect.getmembers(Place, inspect.isfunction):
        if method.startswith("_"):
            continue
        wanted = list(inspect.signature(declared).parameters)[1:]
        assert list(inspect.signature(getattr(place, method)).parameters)[: len(wanted)] == wanted


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_nothing_outside_the_places_decides_by_a_places_name(path):
    """The name of a place is compared nowhere, nor is the attribute that holds it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            text = ast.unparse(node)
            assert "place.name" not in text and "place_name" not in text, f"{path.name}:{node.lineno}: {text}"
            assert not any(repr(name) in text for name in PLACES), f"{path.name}:{node.lineno}: {text}"
