"""`index registry` and `index same-registry`, and what doctor says of them."""

from pathlib import Path

import pytest

from crossmount.cli.commands.doctor import as_lines, check_mounts
from crossmount.cli.commands.index_registries import advice, ecr_region
from crossmount.index import RegistryTraits
from crossmount.index.blocking import open_index
from crossmount.testing import running_registry
from support.commands import Here, Shell
from support.images import make_layers, make_layout
from support.servers import Server

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
LAYER = "sha256:" + "a" * 64
NO_WORD = {"mounts": None, "finds": None, "after_manifest": None, "truthful": None}


def test_what_is_believed_of_a_registry_is_shown_and_forgotten(here: Here, valkey: Server) -> None:
    """`index registry` shows each trait and for how long it is believed; `--forget` removes all of them."""
    with open_index(valkey.url) as index:
        index.record_traits("r.example", RegistryTraits(mounts=False, truthful=False))
    here_at = ("--index", valkey.url)
    document = here("index", "registry", "R.example:443", "--json", *here_at).document
    assert document["registry"] == "r.example"
    assert NO_WORD.keys() <= document.keys()
    assert (document["mounts"], document["finds"], document["truthful"]) == (False, None, False)
    assert 0 < document["seconds_left"] <= 6 * 3600
    assert document["learnt_at"] < document["believed_until"]
    shown = here("index", "registry", "r.example", *here_at).out
    assert "believed for another 6 h" in shown
    assert "crossmount index registry r.example --forget" in shown
    assert here("index", "registry", "r.example", "--forget", *here_at).out == (
        "r.example: forgotten, the next push finds out anew\n"
    )
    assert "nothing is learnt yet" not in shown
    assert "nothing is learnt yet" in here("index", "registry", "r.example", *here_at).out
    document = here("index", "registry", "r.example", "--json", *here_at).document
    assert {name: document[name] for name in NO_WORD} == NO_WORD
    assert document["seconds_left"] is None
    assert "nothing was known" in here("index", "registry", "r.example", "--forget", *here_at).out


def test_what_is_no_registry_is_a_usage_error(here: Here) -> None:
    """A name that is not a registry's is refused before the index is asked."""
    assert here("index", "registry", "a/b", "--index", "off").status == 2


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (ECR, "us-east-1"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "eu-west-1"),
        ("public.ecr.aws", None),
        (f"{ECR}.evil.example", None),
        ("dkr.ecr.us-east-1.amazonaws.com", None),
        ("r.example", None),
    ],
)
def test_a_host_of_ecrs_form_has_a_region(host: str, region: str | None) -> None:
    """Hosts of a private ECR registry name their region; no other host does."""
    assert ecr_region(host) == region


def test_doctor_names_ecrs_account_setting_and_its_command() -> None:
    """Where mounts are believed off at ECR, the command that switches them on stands on a line of its own."""
    finding = check_mounts(ECR, RegistryTraits(mounts=False), seconds_left=7000)
    lines = [line.strip() for line in as_lines([finding], None, width=80)]
    assert "aws ecr put-account-setting --name BLOB_MOUNTING --value ENABLED --region us-east-1" in lines
    assert any(f"crossmount index registry {ECR} --forget" in line for line in lines)
    assert advice(ECR, RegistryTraits(mounts=True)) == advice(ECR, RegistryTraits()) == []


def test_doctor_says_what_is_believed_of_a_registry_that_does_not_answer(here: Here, valkey: Server) -> None:
    """The advice needs no answer of the registry."""
    with open_index(valkey.url) as index:
        index.record_traits("127.0.0.1:1", RegistryTraits(mounts=False))
    done = here("doctor", "127.0.0.1:1/team/app", "--index", valkey.url)
    assert done.status == 1
    assert "crossmount index registry 127.0.0.1:1 --forget" in done.out


def test_doctor_reports_a_registry_that_was_untruthful() -> None:
    """The words and the facts name it."""
    finding = check_mounts("r", RegistryTraits(mounts=True, truthful=False), seconds_left=5)
    assert "asked after each mount" in finding.words
    assert (finding.facts["truthful"], finding.facts["seconds_left"]) == (False, 5)


def test_pairs_are_shared_listed_and_removed(here: Here, valkey: Server) -> None:
    """A pair that one user shares is used by others, until it is removed."""
    at = ("--index", valkey.url, "--namespace", "pairs")
    assert "no registry has several names" in here("index", "same-registry", *at).out
    assert (
        here("index", "same-registry", "Out.example:5000=in.example", *at).out == "out.example:5000 = in.example\n"
    )
    here("add", LAYER, "out.example:5000/team/a", *at)
    found = here("sources", LAYER, "in.example/team/b", *at).out
    assert found.splitlines() == ["in.example/team/a"]
    listed = here("index", "same-registry", "--json", *at).document
    assert listed == {"same_registry": [{"name": "out.example:5000", "kept_as": "in.example"}]}
    assert here("index", "registry", "in.example", "--json", *at).document["names"] == [
        "in.example",
        "out.example:5000",
    ]
    removed = here("index", "same-registry", "--remove", "out.example:5000", *at)
    assert (removed.status, "no registry has several names" in removed.out) == (0, True)
    assert "has no pair" in here("index", "same-registry", "--remove", "out.example:5000", *at).err


@pytest.mark.parametrize("pair", ["list", "a.example", "a.example=a.example", "a.example=b/c"])
def test_a_wrong_pair_is_one_line(here: Here, valkey: Server, pair: str) -> None:
    """Text that is not two names of one registry is refused, and nothing is shared."""
    done = here("index", "same-registry", pair, "--index", valkey.url)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    own = here("sources", LAYER, "r.example/a", "--same-registry", "a.example", "--index", valkey.url)
    assert (own.status, "not a pair of registries: 'a.example'" in own.err) == (2, True)


def test_a_push_mounts_from_a_source_under_another_name(here: Here, valkey: Server, tmp_path: Path) -> None:
    """With `--same-registry`, what one name's push recorded is mounted by a push to the other name."""
    image = make_layout(tmp_path / "image", make_layers(2, size=5000))
    with running_registry() as registry:
        port = registry.address.rpartition(":")[2]
        one, other = f"127.0.0.1:{port}", f"localhost:{port}"
        at = ("--index", valkey.url, "--plain-http", "--json")
        assert here("push", str(image.path), f"{one}/team/a:1", *at).status == 0
        done = here("push", str(image.path), f"{other}/team/b:1", "--same-registry", f"{other}={one}", *at)
        assert {blob["outcome"] for blob in done.document["blobs"]} == {"mounted"}


def test_pairs_of_the_environment_are_separated_by_commas(shell: Shell, valkey: Server) -> None:
    """`CROSSMOUNT_SAME_REGISTRY` counts for every command, and so does an option beside it."""
    at = ("--index", valkey.url, "--namespace", "variable")
    pairs = {"CROSSMOUNT_SAME_REGISTRY": "a.example=b.example,c.example=b.example"}
    assert shell("add", LAYER, "a.example/team/a", *at, **pairs).status == 0
    assert shell("sources", LAYER, "c.example/team/b", *at, **pairs).out == "c.example/team/a\n"
    own = ("--same-registry", "d.example=b.example")
    assert shell("sources", LAYER, "d.example/team/b", *at, *own, **pairs).out == "d.example/team/a\n"
