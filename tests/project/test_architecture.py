"""The architecture page shows the rules that the code is held against."""

from __future__ import annotations

from bench import architecture


def test_the_picture_on_the_page_is_the_one_that_the_contracts_give() -> None:
    written = architecture.PICTURE.read_text(encoding="utf-8")
    assert written == architecture.picture(), "just bench architecture --write"
    assert f"images/{architecture.PICTURE.name}" in architecture.PAGE.read_text(encoding="utf-8")


def test_every_room_has_a_row_on_the_page() -> None:
    rows = [line for line in architecture.PAGE.read_text().splitlines() if line.startswith("| `")]
    named = {name.strip(" `") for row in rows for name in row.split("|")[1].split(",")}
    rooms = {room.removeprefix("minivess.") for layer in architecture.layers() for room in layer}
    assert named == rooms
