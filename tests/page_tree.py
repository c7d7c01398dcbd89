"""A page of HTML as a tree, for tests: strict, and with its tables by their titles."""

import html.parser
from collections.abc import Iterator
from typing import Any

VOID = {"meta", "link", "input", "img", "br", "wbr"}


class Element:
    def __init__(self, tag: str, attributes: dict[str, str | None], parent: "Element | None") -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element | str] = []

    def __iter__(self) -> Iterator["Element"]:
        """The element and all in it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child

    def all(self, *tags: str) -> list["Element"]:
        return [one for one in self if one.tag in tags]

    def get(self, key: str) -> str:
        return self.attributes.get(key) or ""

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def up(self, tag: str) -> "Element | None":
        one: Element | None = self
        while one is not None and one.tag != tag:
            one = one.parent
        return one


class Parser(html.parser.HTMLParser):
    """The tree of a page. An end that fits no start, a start without its end and a doubled attribute are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.here = Element("", {}, None)
        self.feed(text)
        self.close()
        assert self.here is self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        one = Element(tag, dict(attrs), self.here)
        self.here.children.append(one)
        if tag not in VOID:
            self.here = one

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, (self.here.tag, tag)
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def by_id(root: Element, key: str) -> Element:
    (found,) = (one for one in root if one.get("id") == key)
    return found


def rows(root: Element, key: str) -> list[dict[str, Element]]:
    """The rows of a table, by the titles of its columns."""
    table = by_id(root, key)
    (head,) = table.all("thead")
    (body,) = table.all("tbody")
    titles = [one.text for one in head.all("th")]
    found = [[cell for cell in row.children if isinstance(cell, Element)] for row in body.all("tr")]
    return [dict(zip(titles, cells, strict=True)) for cells in found]


def values(element: Element) -> list[float]:
    """The full values of the numbers in an element."""
    return [float(one.get("data-value")) for one in element if "data-value" in one.attributes]


def numbers(value: Any) -> list[float]:
    """All numbers in a document."""
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def without(value: Any, keys: set[str]) -> Any:
    """A document without these keys, at any depth."""
    if isinstance(value, dict):
        return {key: without(item, keys) for key, item in value.items() if key not in keys}
    return [without(item, keys) for item in value] if isinstance(value, list) else value
