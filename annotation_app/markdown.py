"""Model output as HTML. It is hostile input: no raw HTML, no images, no links that run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from html import unescape
from typing import Any
from xml.etree import ElementTree

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

TAGS = {
    "p", "br", "hr", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li", "a",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "s",
}  # fmt: skip
MATHML = {
    "math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msup",
    "msub", "msubsup", "mover", "munder", "munderover", "mmultiscripts", "mtable", "mtr", "mtd",
    "mpadded", "mphantom", "mstyle", "menclose",
}  # fmt: skip
MATHML_ATTRIBUTES = {
    "display", "stretchy", "fence", "accent", "mathvariant", "columnalign", "linethickness",
    "displaystyle", "scriptlevel", "width", "notation",
}  # fmt: skip
LONGEST_FORMULA = 2_000
MOST_FORMULAS = 500  # an unclosed one is looked for to the end of the text


@lru_cache(maxsize=256)  # annotators move through a batch together and meet the same texts
def render_markdown(text: str) -> SafeString:
    """Sanitised HTML; headings become bold lines, so that pages keep their own outline."""
    formulas = text.count(r"\(") + text.count(r"\[")
    clean = nh3.clean(
        (PARSER if formulas <= MOST_FORMULAS else WITHOUT_FORMULAS).render(text),
        tags=TAGS | MATHML,
        attributes={"a": {"href"}, "ol": {"start"}, **dict.fromkeys(MATHML, MATHML_ATTRIBUTES)},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    for level in "123456":
        clean = clean.replace(f"<h{level}>", '<p class="heading">').replace(f"</h{level}>", "</p>")
    return mark_safe(clean)


def formula(latex: str, display: str) -> str:
    """LaTeX as MathML, which browsers set without a script; as code where it cannot be read."""
    if len(latex) > LONGEST_FORMULA:
        return f"<code>{escape(latex)}</code>"
    try:
        element = convert_to_element(latex, display=display)
    except Exception:  # whatever its parser stumbles over: the text is a model's
        return f"<code>{escape(latex)}</code>"
    _clean(element)
    return ElementTree.tostring(element, encoding="unicode")


def _clean(element: ElementTree.Element) -> None:
    """Leave what is MathML: LaTeX can ask for links, styles and more."""
    if element.tag not in MATHML:
        element.tag = "mrow"
    for name in set(element.attrib) - MATHML_ATTRIBUTES:
        del element.attrib[name]
    element.text = unescape(element.text or "")  # it comes with entities, and is escaped again
    for child in element:
        _clean(child)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    return parser.enable(["table", "strikethrough"]).disable("image")


def _with_formulas(parser: MarkdownIt) -> MarkdownIt:
    parser.use(amsmath_plugin)
    for delimiters in ("dollars", "brackets"):
        parser.use(texmath_plugin, delimiters=delimiters)
    for rule in ("math_inline", "math_inline_double", "math_block", "math_block_eqno", "amsmath"):
        display = "inline" if rule == "math_inline" else "block"
        parser.add_render_rule(rule, _renders(display))
    return parser


def _renders(display: str) -> Any:
    def render(self: Any, tokens: Any, index: int, options: Any, env: Mapping[str, Any]) -> str:
        html = formula(tokens[index].content.strip(), display)
        return html if tokens[index].type.startswith("math_inline") else f"<p>{html}</p>\n"

    return render


WITHOUT_FORMULAS = _parser()
PARSER = _with_formulas(_parser())
