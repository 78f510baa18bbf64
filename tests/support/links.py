"""Links from URLs, in both flavours."""

from redis.credentials import CredentialProvider

import redis
from crossmount.redis.client import ServerClient
from crossmount.redis.connection import connect
from crossmount.redis.link import BlockingLink, ThreadedLink
from crossmount.redis.url import parse_url


def async_link(
    url: str, *, credentials: CredentialProvider | None = None, for_look_ups: bool = False
) -> ThreadedLink:
    """Make a link for an event loop."""
    return ThreadedLink(connect(parse_url(url), credentials=credentials, for_look_ups=for_look_ups))


def blocking_link(
    url: str, *, credentials: CredentialProvider | None = None, for_look_ups: bool = False
) -> BlockingLink:
    """Make a link that never suspends."""
    return BlockingLink(connect(parse_url(url), credentials=credentials, for_look_ups=for_look_ups))


def blocking_link_to(client: redis.Redis) -> BlockingLink:
    """Make a link on a client of redis-py, or on a fake one."""
    return BlockingLink(ServerClient(client, "the test's server"))


def async_link_to(client: redis.Redis) -> ThreadedLink:
    """Make a link on a client of redis-py, or on a fake one, for an event loop."""
    return ThreadedLink(ServerClient(client, "the test's server"))
