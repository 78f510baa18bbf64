"""What an index believes of a registry, for people and scripts, and what to do where mounts are believed off."""

import re
from typing import Any

from crossmount.cli import text
from crossmount.index import RegistryTraits
from crossmount.index.belief import RegistryBelief

_QUESTIONS = {
    "mounts": "mounts layers from a named repository",
    "finds": "finds layers by itself",
    "after_manifest": "mounts only what a manifest names",
    "truthful": "has what it says that it mounted",
}
_ANSWERS = {True: "yes", False: "no", None: "not known"}

_ECR = re.compile(
    r"[0-9]{12}\.(?:dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
    r"|dkr-ecr(?:-fips)?\.(?P<dual>[a-z0-9-]+)\.on\.(?:aws|amazonwebservices\.com\.cn))"
)


def ecr_region(registry: str) -> str | None:
    """Return the AWS region in a host of ECR's form: `<account>.dkr.ecr.<region>.amazonaws.com`, or its twins.

    Any other host has none.
    """
    match = _ECR.fullmatch(registry)
    return None if match is None else match["region"] or match["dual"]


def advice(registry: str, traits: RegistryTraits) -> list[str]:
    """Return lines that say how to get mounts where they are believed to be off; none where they are not."""
    if traits.mounts is not False:
        return []
    forget = f"crossmount index registry {registry} --forget"
    region = ecr_region(registry)
    if region is None:
        return [f"once mounting is on there, do not wait: {forget}"]
    return [
        "ECR mounts only with its account setting BLOB_MOUNTING:",
        f"aws ecr put-account-setting --name BLOB_MOUNTING --value ENABLED --region {region}",
        f"then: {forget}",
    ]


def as_document(belief: RegistryBelief, *, now: float, forgotten: bool) -> dict[str, Any]:
    """Return a belief as a JSON document."""
    left, age = belief.seconds_left, belief.age
    return {
        "registry": belief.registry,
        "names": list(belief.names),
        **_traits(belief),
        "learnt_at": None if age is None else round(now - age),
        "believed_until": None if left is None else round(now + left),
        "seconds_left": left,
        "forgotten": forgotten,
    }


def as_lines(belief: RegistryBelief) -> list[str]:
    """Return a belief as lines for people."""
    width = max(map(len, _QUESTIONS.values()))
    lines = [f"registry: {belief.registry}"]
    if len(belief.names) > 1:
        lines.append(f"  one registry with {', '.join(name for name in belief.names if name != belief.registry)}")
    lines += [f"  {_QUESTIONS[name]:<{width}}  {_ANSWERS[value]}" for name, value in _traits(belief).items()]
    if belief.seconds_left is not None and belief.age is not None:
        lines.append(
            f"  learnt {text.duration(belief.age)} ago, believed for another {text.duration(belief.seconds_left)}"
        )
    return [*lines, *(f"  {line}" for line in advice(belief.registry, belief.traits))]


def _traits(belief: RegistryBelief) -> dict[str, bool | None]:
    return {name: getattr(belief.traits, name) for name in _QUESTIONS}
