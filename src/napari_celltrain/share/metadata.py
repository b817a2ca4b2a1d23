"""What a person adds to a model that is given away, and no file knows: who made it, the licence, what it is for."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from napari_celltrain.values.config import Frozen
from napari_celltrain.values.errors import ConfigError

_DOI = re.compile(r"\b10\.\d{4,9}/[^\s;,]*[^\s;,.)]")
_URL = re.compile(r"\bhttps?://[^\s;,]+[^\s;,.)]")
_ORCID = re.compile(r"(\d{4}-){3}\d{3}[\dX]")
_NAME = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}")


class Person(Frozen):
    """An author. The ORCID has the form 0000-0000-0000-0000."""

    name: str
    affiliation: str | None = None
    orcid: str | None = None
    github: str | None = Field(default=None, serialization_alias="github_user")
    email: str | None = None


class Citation(Frozen):
    """A reference; it has a DOI or an address."""

    text: str
    doi: str | None = None
    url: str | None = None


def parse_person(text: str) -> Person:
    """``NAME; affiliation=…; orcid=…; github=…; email=…``, all but the name optional. Raises ``ConfigError``."""
    known = [field for field in Person.model_fields if field != "name"]
    name, *rest = (part.strip() for part in text.split(";"))
    fields: dict[str, str] = {}
    for part in rest:
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in known or not value:
            raise ConfigError(
                f"--author: {part!r} is not understood. Write the name first, then any of "
                f"{', '.join(f'{field}=…' for field in known)}, separated by semicolons."
            )
        fields[key] = value
    if not name or "/" in name or "\\" in name:
        raise ConfigError(f"--author: {text!r} must begin with a name, which holds no slash.")
    if "orcid" in fields and not _is_orcid(fields["orcid"]):
        raise ConfigError(f"--author: {fields['orcid']!r} is not an ORCID, such as 0000-0002-1825-0097.")
    return Person(name=name, **fields)


def _is_orcid(text: str) -> bool:
    """Whether the check digit fits (ISO 7064, 11-2)."""
    digits = (10 if digit == "X" else int(digit) for digit in reversed(text.replace("-", "")))
    return bool(_ORCID.fullmatch(text)) and sum(digit << place for place, digit in enumerate(digits)) % 11 == 1


def parse_citation(text: str) -> Citation:
    """A reference as one writes it, with a DOI or a web address in it. Raises ``ConfigError``."""
    doi, url = _DOI.search(text), _URL.search(text)
    if doi is None and url is None:
        raise ConfigError(f"--cite: {text!r} names no DOI (10.…/…) and no web address. Add one of them.")
    return Citation(text=text, doi=doi[0] if doi else None, url=url[0] if url and not doi else None)


def check_name(name: str) -> str:
    """``name`` as the standard allows it. Raises ``ConfigError``."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name: {name!r} must have 5 to 128 letters (A to Z), digits, spaces, or any of _ + - ( ). "
            "Choose a name that says what is segmented in which kind of image."
        )
    return name


def default_name(*parts: str) -> str:
    """A name made of ``parts``, in which characters that the standard forbids become ``-``."""
    return re.sub(r"[^A-Za-z0-9_+\- ()]+", "-", " ".join(parts))[:128].strip().ljust(5, "-")


class Metadata(Frozen):
    """What the user adds to a model's card; empty fields are filled in from the run, or left out.

    Authors and references are given as text. Raises ``ConfigError`` where one of them, or the name, is not understood.
    """

    name: Annotated[str, AfterValidator(check_name)] | None = None
    """What is segmented in which images, 5 to 128 characters. Default: network and run."""
    description: str | None = None
    """What it does."""
    authors: tuple[Annotated[Person, BeforeValidator(parse_person)], ...] = ()
    """"Name; affiliation=…; orcid=…; github=…; email=…", all but the name optional. May be repeated."""
    license: str | None = None
    """Licence by its SPDX identifier (https://spdx.org/licenses), such as CC-BY-4.0 or MIT."""
    cite: tuple[Annotated[Citation, BeforeValidator(parse_citation)], ...] = ()
    """Reference with its DOI or address in it. May be repeated. Default: the network's paper."""
    data: str | None = None
    """What the training images show: tissue, stain, microscope."""
    limits: str | None = None
    """Where the model is known or likely to fail."""
    tags: tuple[str, ...] = ()
    """Further word to be found by. May be repeated."""
    halo: bool = False
    """Declare that an eighth of each window is to be cut off, for programs that put large volumes together from
    windows. Off, because bioimage.io's own `predict` enlarges every input by it, which networks of a fixed window
    cannot take."""
