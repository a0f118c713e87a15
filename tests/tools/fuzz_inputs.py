"""What the inputs of fuzz.py are made of: odd texts and values, and structures with something broken in them."""

import json

from hypothesis import strategies as st

ODD_TEXT = st.sampled_from(
    [
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "1e400",
        "-0",
        "0x10",
        "1_000",
        "True",
        "null",
        "[]",
        '"60"',
        '"',
        "\ud800",
        "\0",
        "\n",
        "\x1b[2J",
        "../..",
        "/",
        "9" * 400,
        "é",
        "٣",
        "2020-01-01",
        "2020-02-30",
        "10000-01-01",
        "files://x",
        "redis://u:p@h",
        "*",
        "${HOME}",
    ]
)
TEXT = ODD_TEXT | st.text(max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-10, 10)
    | st.sampled_from([2**31, 2**63, -(2**70), 10**30])
    | st.floats()
    | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


def broken_structure(draw, value, depth=0):
    """A structure in which some part is replaced, dropped, renamed or repeated."""
    if not isinstance(value, (dict, list)) or not value or depth > 4 or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        kind = draw(st.sampled_from(["inside", "drop", "repeat"]))
        parts = {"inside": [broken_structure(draw, value[at], depth + 1)], "drop": [], "repeat": [value[at]] * 2}
        return value[:at] + parts[kind] + value[at + 1 :]
    key = draw(st.sampled_from(sorted(value, key=str)))
    kind = draw(st.sampled_from(["inside", "inside", "inside", "drop", "rename", "add"]))
    rest = {name: part for name, part in value.items() if name != key}
    if kind == "inside":
        return value | {key: broken_structure(draw, value[key], depth + 1)}
    return (
        rest
        if kind == "drop"
        else rest | {draw(TEXT): value[key]}
        if kind == "rename"
        else value | {draw(TEXT): draw(VALUES)}
    )


def dumped(value) -> bytes:
    return json.dumps(value, default=str).encode("utf-8")
