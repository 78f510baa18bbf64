"""Copy jobs: a source and its destinations, parsed and checked. Pure."""

import re
from collections.abc import Iterable

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.oci import Reference, as_reference

_LAYOUT = re.compile(r"(oci|oci-archive|docker-daemon):(?![0-9]+/)")
"""An image layout in the notation of other tools; `oci:5000/app` names a host `oci`."""


@dataclass(frozen=True, slots=True)
class CopyJob:
    """One image, or all tags of one repository, and one or more destinations."""

    source: Reference
    dests: tuple[Reference, ...]
    all_tags: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without a request.

        Raises:
            InvalidInputError: there is no destination, or the source and a destination contradict each other.
        """
        if not self.dests:
            raise InvalidInputError(f"{self.source}: give a destination too")
        for reference in (self.source, *self.dests) if self.all_tags else ():
            if reference.target is not None:
                raise InvalidInputError(f"{reference}: with all tags give the repository alone")
        if self.all_tags:
            return
        for dest in self.dests:
            _check_digest(self.source, dest)

    @classmethod
    def of(cls, source: str | Reference, dests: Iterable[str | Reference], *, all_tags: bool = False) -> "CopyJob":
        """Parse references.

        Raises:
            InvalidReferenceError, InvalidDigestError: one breaks the grammar.
            InvalidInputError: they contradict each other, or one is an image layout.
        """
        return cls(_parse(source), tuple(_parse(dest) for dest in dests), all_tags)

    def tagged(self, tag: str) -> "CopyJob":
        """Return the job for one tag of the repository."""
        return CopyJob(self.source.with_tag(tag), tuple(dest.with_tag(tag) for dest in self.dests))

    @property
    def image(self) -> Reference:
        """The image to read: the source, with the tag `latest` if it has neither tag nor digest."""
        return self.source.or_latest()

    def targets(self) -> tuple[Reference, ...]:
        """Return the destinations; one without tag and digest gets the source's tag, or else its digest."""
        image = self.image
        return tuple(
            dest if dest.target else Reference(dest.repository, image.tag, None if image.tag else image.digest)
            for dest in self.dests
        )


def read_list(lines: Iterable[str], *, where: str, all_tags: bool = False) -> list[CopyJob]:
    """Parse lines of `SOURCE DEST [DEST…]`; empty lines are ignored.

    Raises:
        InvalidInputError: a line is not valid; the message names it.
    """
    jobs = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words:
            try:
                jobs.append(CopyJob.of(words[0], words[1:], all_tags=all_tags))
            except InvalidInputError as error:
                raise InvalidInputError(f"{where}:{number}: {error}") from error
    return jobs


def _parse(reference: str | Reference) -> Reference:
    if isinstance(reference, str) and _LAYOUT.match(reference):
        raise InvalidInputError(
            f"{reference[:300]}: copy works between registries: use crossmount push for a layout "
            "(docker.io/library/NAME for an image of that name)"
        )
    return as_reference(reference)


def _check_digest(source: Reference, dest: Reference) -> None:
    if dest.digest is not None and source.digest is not None and dest.digest != source.digest:
        raise InvalidInputError(f"{dest}: a copy has the digest of its source, {source.digest}")
