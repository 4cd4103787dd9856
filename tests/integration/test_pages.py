"""Every fenced block of a page is found, and nothing is left out unless the page says so, with a reason."""

from __future__ import annotations

import re

import pytest

from infra.settings import ROOT
from tests.integration.pages import PageError, blocks, unseen
from tests.integration.test_tutorials import JOURNEYS, PAGES

PAGE = """# A page
<!-- a comment for people -->
```bash
ls
```
<!-- test: "one" becomes "two",
because it is so -->
```bash
cat one
```
## Two
```python title="a/b.py"
x = "```"
```
```
shown
```
<!-- test: exits 3, because it shows a fault -->

```bash
exit 3
```
```text
…
```
"""


def test_every_block_is_found_with_what_the_page_says_of_it() -> None:
    found = blocks("page.md", PAGE)
    assert [(b.line, b.language, b.title) for b in found] == [
        (3, "bash", ""),
        (8, "bash", ""),
        (12, "python", "a/b.py"),
        (15, "", ""),
        (20, "bash", ""),
        (23, "text", ""),
    ]
    assert [b.command for b in found[:3]] == ["ls", "cat two", 'x = "```"']
    assert [b.exit_code for b in found] == [0, 0, 0, 0, 3, 0]


@pytest.mark.parametrize(
    "text",
    [
        "```ruby\nputs 1\n```",
        "```sh\nls\n```",
        "```bash\nls",
        "~~~\nls\n```",
        "```yaml\na: 1\n```",
        '```bash title="a.sh"\nls\n```',
        "```bash linenums\nls\n```",
        "<!-- test: skip -->\n```bash\nls\n```",
        "<!-- test: skip, because -->\n```bash\nls\n```",
        "<!-- test: sometimes, because of the weather -->\n```bash\nls\n```",
        "<!-- test: skip, because it is long -->\nWords\n```bash\nls\n```",
        "<!-- test: skip, because it is long -->\n",
        "<!-- test: skip, because a -->\n<!-- test: skip, because b -->\n```bash\nls\n```",
    ],
)
def test_what_is_no_block_that_the_test_knows_is_an_error(text: str) -> None:
    with pytest.raises(PageError, match=r"page\.md"):
        blocks("page.md", text)


def test_a_replacement_of_what_is_not_there_is_an_error() -> None:
    (block,) = blocks("page.md", '<!-- test: "cat" becomes "dog", because it is so -->\n```bash\nls\n```')
    with pytest.raises(PageError, match="no 'cat'"):
        _ = block.command


@pytest.mark.parametrize("page", PAGES)
def test_no_fence_of_a_page_is_overlooked(page: str) -> None:
    text = (ROOT / page).read_text()
    assert len(re.findall(r"^\s*(?:`{3,}|~{3,})", text, re.MULTILINE)) == 2 * len(blocks(page, text))


def test_every_page_is_in_one_journey() -> None:
    assert sorted(page for journey in JOURNEYS.values() for page in journey) == sorted(PAGES)


def test_what_a_page_shows_is_looked_for_in_order() -> None:
    printed = "one   1\ntwo 22.5 s\nthree\n"
    assert unseen("one 1\n…\nthree", printed) == []
    assert unseen("two … s", printed) == []
    assert unseen("two  …", printed) == []
    assert unseen("three\none 1", printed) == ["one 1"]
    assert unseen("one", printed) == ["one"]
