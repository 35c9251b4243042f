"""Pages that are made of the code say what the code says now."""

import pytest

from tests.support import reference


@pytest.mark.parametrize(
    "path", [reference.CONFIGURATION, reference.HTTP, reference.PERMISSIONS_PAGE]
)
def test_page_is_current(path: str) -> None:
    current = (reference.ROOT / path).read_text(encoding="utf-8")
    assert current == reference.PAGES[path](), "run `make docs`"


def test_readme_has_a_block_for_the_figures() -> None:
    text = (reference.ROOT / reference.README).read_text(encoding="utf-8")
    assert "measured" in reference.fill(text, "figures", "measured")


def test_relative_links_lead_somewhere() -> None:
    pages = [reference.ROOT / "README.md", *(reference.ROOT / "docs").rglob("*.md")]
    found = [
        f"{page.relative_to(reference.ROOT)}: {target}"
        for page in pages
        for target in reference.links(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not found
