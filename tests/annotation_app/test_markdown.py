"""Model output as HTML: what is set, what is refused, what it costs."""

from __future__ import annotations

import pytest

from annotation_app.markdown import MOST_FORMULAS, render_markdown


def test_formulas_become_mathml():
    html = render_markdown(r"Then $x^2$, \(a<b\) and" + "\n\n$$\\frac{1}{2}$$")
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert "<mo>&lt;</mo>" in html
    assert '<math display="block"><mrow><mfrac>' in html


@pytest.mark.parametrize("text", ["$5 and $10", "US$5 to US$10", "`$x$`", "3,000 $ or 4,000 $"])
def test_amounts_are_no_formulas(text):
    assert "<math" not in render_markdown(text)


@pytest.mark.parametrize(
    "latex",
    [
        r"\text{<img src=x onerror=alert(1)>}",
        r"\href{javascript:alert(1)}{x}",
        r"\text{&lt;script&gt;alert(1)&lt;/script&gt;}",
        r"\style{background:url(https://example.com)}{x}",
    ],
)
def test_formulas_bring_no_code_and_no_addresses(latex):
    html = render_markdown(f"${latex}$")
    for part in ("<img", "<script", "href=", "style=", "javascript:"):
        assert part not in html


def test_unreadable_latex_stays_readable():
    assert r"<code>\frac{</code>" in render_markdown(r"$\frac{$")


def test_more_formulas_than_a_text_has_are_left_as_text():
    """Each unclosed one is looked for to the end of the text, so many would take very long."""
    assert render_markdown(r"\(x\) " * MOST_FORMULAS).count("<math") == MOST_FORMULAS
    assert "<math" not in render_markdown(r"\(x\) " * (MOST_FORMULAS + 1))
