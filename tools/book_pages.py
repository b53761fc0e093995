"""Adds the pages at the top of the repository, and the list of decisions, to the book.

MkDocs calls it as a hook (mkdocs.yml).
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

TOP = Path(__file__).resolve().parent.parent
# Pages outside of docs/ that are part of the book.
ADDED = ["CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"]
# A link of an added page into docs/, and a link of a page of docs/ to an added page.
INTO_DOCS = re.compile(r"\]\(docs/")
TO_ADDED = re.compile(r"\]\((?:\.\./)+(" + "|".join(map(re.escape, ADDED)) + r")")


def on_config(config):
    """Replaces `decisions/` in the navigation by the pages of that folder, in the order of their numbers."""
    decisions = sorted(Path(config.docs_dir, "decisions").glob("0*.md"))
    pages = ["decisions/README.md", *(f"decisions/{page.name}" for page in decisions)]
    for part in config.nav:
        for entry in part.get("Internals", []) if isinstance(part, dict) else []:
            if isinstance(entry, dict) and entry.get("Decisions") == "decisions/":
                entry["Decisions"] = pages
    return config


def on_files(files, config):
    for name in ADDED:
        files.append(File.generated(config, name, content=(TOP / name).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri
    if here in ADDED:
        return INTO_DOCS.sub("](", markdown)
    return TO_ADDED.sub(lambda link: "](" + posixpath.relpath(link[1], posixpath.dirname(here) or "."), markdown)
