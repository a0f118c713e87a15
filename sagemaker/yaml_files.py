"""YAML and JSON that a user hands in, read within bounds, and requests written so that every reader agrees on them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from ml.errors import UserError, printable

_MOST_BYTES = 512 * 1024
_MOST_NODES = 10_000  # each alias counts as all that it stands for
_DEEPEST = 32
_LONGEST_SCALAR = 64  # characters of a number or a date
_LONGEST_MESSAGE = 300

_WORD = re.compile("[A-Za-z][A-Za-z0-9_-]*")
_NO_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # to YAML 1.1 or 1.2


class _WrongYaml(yaml.YAMLError):
    """YAML that cannot be a request or a settings file."""


class _BoundedLoader(yaml.SafeLoader):
    """A SafeLoader that stops before a small file takes much time or memory, and at keys that come twice."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._sizes = dict[int, int]()  # id of a node to the nodes in it, aliases followed; absent: not yet complete

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        self._nodes += 1
        if self._depth > _DEEPEST:
            raise _WrongYaml(f"more than {_DEEPEST} levels of nesting")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and not alias:
            self._sizes[id(node)] = 1 + sum(self._size(child) for child in _children(node))
        if self._nodes > _MOST_NODES or (node is not None and self._size(node) > _MOST_NODES):
            raise _WrongYaml(f"more than {_MOST_NODES:,} values")
        return node

    def _size(self, node: yaml.Node) -> int:
        if id(node) not in self._sizes:
            raise _WrongYaml("an alias of what it is in")
        return self._sizes[id(node)]

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [name for name, count in counts.items() if count > 1]:
            raise _WrongYaml(f"the key {twice[0]!r} comes twice in one mapping, line {node.start_mark.line + 1}")
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if (
            isinstance(node, yaml.ScalarNode)
            and node.tag != "tag:yaml.org,2002:str"
            and len(node.value) > _LONGEST_SCALAR
        ):
            kind = node.tag.rpartition(":")[2]
            raise _WrongYaml(f"a value of type {kind} with {len(node.value):,} characters; quote it if it is text")
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as the 30th of February
            line = node.start_mark.line + 1
            what = f"{str(node.value)[:_LONGEST_SCALAR]!r} in line {line}"
            raise _WrongYaml(f"{what}: {error}; quote it if it is text") from None


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML or JSON file that a user hands in.

    Args:
        path: the file; a pipe will do.
        what: names the file in messages.

    Raises:
        UserError: it cannot be read, is not YAML, or is larger, deeper or longer than a request can be.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise _WrongYaml(f"more than {_MOST_BYTES // 1024} KiB")
        loader = _BoundedLoader(content.decode("utf-8-sig"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        text = printable(str(error))
        text = text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
        raise UserError(f"the {what} {path} cannot be read: {text}") from None


class _QuotingDumper(yaml.SafeDumper):
    """A SafeDumper that quotes every text that is not plainly a word.

    Readers differ in what unquoted text is: 1e-3 is text to YAML 1.1 and a number to 1.2, `yes` and 0o7 the other way.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        plain = _WORD.fullmatch(data) and data.lower() not in _NO_WORDS
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else '"')


_QuotingDumper.add_representer(str, _QuotingDumper.represent_str)


def as_yaml(request: dict[str, Any]) -> str:
    """A request as YAML in which every reader of YAML 1.1 or 1.2 finds the same values, text as text."""
    # Escapes for all that is not ASCII where some of it cannot be shown, such as what reverses a terminal's text.
    shown = json.dumps(request, ensure_ascii=False, default=str).isprintable()
    return yaml.dump(request, Dumper=_QuotingDumper, sort_keys=False, allow_unicode=shown, width=float("inf")).rstrip()
