import jinja2
import numpy as np
import pytest

from ml.page import chart, number_ticks, rendered


@pytest.mark.parametrize(("low", "high"), [(58_000, 61_000), (1.1012, 1.1093), (2.71e-5, 3.04e-5), (-0.4, 0.6), (5, 5)])
def test_ticks_of_prices_of_any_size_differ_and_have_no_exponent(low, high):
    axes = chart("Prices", y="mid")
    axes.plot(np.linspace(low, high, 50))
    number_ticks(axes.yaxis)
    axes.figure.draw_without_rendering()
    texts = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(texts)) == len(texts) >= 3
    assert not any("e" in text or (text.strip("-0.") == "" and text.startswith("-")) for text in texts)
    assert [float(text.replace(",", "")) for text in texts] == pytest.approx(axes.get_yticks())


def test_a_title_with_dollars_is_no_formula():
    axes = chart("$x$ and $", "a_$b$", "$")
    axes.figure.draw_without_rendering()
    assert axes.get_title(loc="left") == r"\$x\$ and \$"


def test_a_page_escapes_its_values_and_refuses_a_missing_one(tmp_path):
    template = tmp_path / "small.html"
    template.write_text('{% extends "page.html" %}{% block title %}{{ name }}{% endblock %}')
    page = rendered(template, {"name": "<b>&"})
    assert "<title>&lt;b&gt;&amp;</title>" in page and page.startswith("<!doctype html>")
    with pytest.raises(jinja2.UndefinedError, match="name"):
        rendered(template, {})
