"""An upstream whose answers do not end where they should: no caller gets another's answer."""

import contextlib

import httpx
import pytest

from crossmount.registry.http.options import ClientOptions
from support.odd_answers import ODD, odd_server
from support.proxies import proxy_before


@pytest.mark.parametrize("name", ODD)
async def test_a_caller_never_gets_what_followed_anothers_answer(name: str) -> None:
    """After an odd answer for one caller, another's requests get the answers that were given to them."""
    method, _ = ODD[name]
    options = ClientOptions(plain_http=True, read_timeout=0.2)
    async with odd_server() as base, proxy_before(base, options=options) as proxy:
        for turn in range(2):
            with contextlib.suppress(
                httpx.RemoteProtocolError
            ):  # what ends early for the proxy does for its client
                await proxy.client.request(method, f"/v2/one/manifests/{name}", auth=("one", "1"))
            got = [await proxy.client.get(f"/v2/two/manifests/own{turn}{n}", auth=("two", "2")) for n in range(3)]
            assert [answer.text for answer in got] == [f"/v2/two/manifests/own{turn}{n}" for n in range(3)]
