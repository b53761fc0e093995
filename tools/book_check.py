"""Checks a built book: every link and anchor has a target, and no page loads files from another host.

    python3 tools/book_check.py FOLDER
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Tags whose address is loaded with the page. A link (`a`) may lead to another host.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The ids, links and loaded addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if attributes.get("id"):
            self.ids.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in LOADED and attributes.get(LOADED[tag]):
            self.loaded.append(attributes[LOADED[tag]])


def problems(folder):
    pages = {path.resolve(): Page(path.read_text()) for path in folder.rglob("*.html")}
    if len(pages) < 10:
        yield f"{folder}: {len(pages)} pages are no book"
    for path, page in pages.items():
        # Addresses of the page for unknown paths begin with the folder of the site.
        if path.name == "404.html":
            continue
        here = path.relative_to(folder.resolve())
        for address in page.loaded + page.links:
            parts = urlsplit(address)
            if parts.scheme in ("data", "mailto", "javascript"):
                continue
            if parts.scheme or parts.netloc:
                if address in page.loaded:
                    yield f"{here}: loads {address} from another host"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                yield f"{here}: {address} leads nowhere"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{here}: {address} names no anchor"


def main():
    found = list(problems(Path(sys.argv[1])))
    for problem in found:
        print(f"book: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)


main()
