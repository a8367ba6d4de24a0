"""Model output as HTML. It is hostile input: no raw HTML, no images, no links that run."""

from __future__ import annotations

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

PARSER = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable("image")
TAGS = {
    "p", "br", "hr", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li", "a",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip


def render_markdown(text: str) -> SafeString:
    """Sanitised HTML; headings become bold lines, so that pages keep their own outline."""
    clean = nh3.clean(
        PARSER.render(text),
        tags=TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    for level in "123456":
        clean = clean.replace(f"<h{level}>", '<p class="heading">').replace(f"</h{level}>", "</p>")
    return mark_safe(clean)
