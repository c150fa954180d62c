"""JSON files that people write: read into a form, or refused with what is expected."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from minivess.errors import DataError

Form = TypeVar("Form")


def read(path: Path, form: TypeAdapter[Form], *, what: str, remedy: str) -> Form:
    """Read a file and validate its content; `what` names the file in errors.

    Raises:
        DataError: the file cannot be read, is no JSON, or has another form.
    """
    try:
        return form.validate_json(path.expanduser().read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        reason = f"has another form than expected: {place}{first['msg']}"
    raise DataError(f"The {what} {path} {reason}.", remedy=remedy)
