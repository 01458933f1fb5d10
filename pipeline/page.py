"""One self-contained page of HTML: its look, its title, and pictures inside it."""

import base64
import html
from pathlib import Path

from sacd.files import atomic

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }
td, th { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; }
img { max-width: 100%; }
figcaption, p.caption { color: #444; max-width: 50rem; }
"""


def write_page(path: Path, title: str, parts: list[str]) -> None:
    """Write a page of HTML `parts` under a plain-text `title`."""
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    with atomic(path) as temporary:
        temporary.write_text(
            f"<!doctype html><html lang='en'><head>{head}</head><body>\n{body}\n</body></html>\n"
        )


def picture(png: bytes, description: str) -> str:
    """An image that lies within the page."""
    encoded = base64.b64encode(png).decode()
    return (
        f"<img alt='{html.escape(description, quote=True)}' src='data:image/png;base64,{encoded}'>"
    )
