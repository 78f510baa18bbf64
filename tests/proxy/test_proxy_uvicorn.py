"""The private parts of uvicorn that the proxy uses."""

import asyncio
import inspect

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from crossmount.proxy.http.uvicorn_internals import BoundedProtocol, SignalFreeServer, protocol_with
from crossmount.proxy.settings import ServerLimits

OVERRIDDEN = {
    "connection_made": ["transport"],
    "connection_lost": ["exc"],
    "data_received": ["data"],
    "on_message_begin": [],
    "on_header": ["name", "value"],
    "on_headers_complete": [],
    "on_message_complete": [],
    "on_body": ["body"],
    "pause_writing": [],
    "resume_writing": [],
    "send_400_response": ["msg"],
    "_start_asgi_task": ["cycle", "app"],
}
"""The methods of uvicorn's protocol that ours overrides, with their parameters."""

ATTRIBUTES = {"loop", "connections", "transport", "flow", "headers", "cycle", "parser", "pipeline"}
"""The attributes of uvicorn's protocol that ours reads, as they are before the first request."""


async def application(scope: object, receive: object, send: object) -> None:
    """Do nothing."""


def changed(part: str) -> str:
    """Return what a failed check says."""
    return f"uvicorn {uvicorn.__version__} has changed {part}, which proxy/http/uvicorn_internals.py uses"


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_an_overridden_method_has_its_parameters(name: str) -> None:
    """Each method that the bounded protocol overrides exists in uvicorn's, with the same parameters."""
    method = getattr(httptools_impl.HttpToolsProtocol, name, None)
    assert method is not None, changed(name)
    assert list(inspect.signature(method).parameters)[1:] == OVERRIDDEN[name], changed(name)


def test_every_overridden_method_is_listed() -> None:
    """No method of uvicorn's protocol is overridden without a row above."""
    ours = {name for name, value in vars(BoundedProtocol).items() if inspect.isfunction(value)}
    assert {name for name in ours - {"__init__"} if hasattr(httptools_impl.HttpToolsProtocol, name)} == set(
        OVERRIDDEN
    )


async def test_a_connection_has_the_attributes_that_are_read() -> None:
    """A new connection of uvicorn's has the attributes that the bounded protocol reads."""
    config = uvicorn.Config(application, http=protocol_with(ServerLimits()), lifespan="off", log_config=None)
    config.load()
    connection = httptools_impl.HttpToolsProtocol(
        config, ServerState(), app_state={}, _loop=asyncio.get_running_loop()
    )
    for name in sorted(ATTRIBUTES):
        assert hasattr(connection, name), changed(name)
    assert vars(connection)["cycle"] is None, changed("cycle")
    connection.on_message_begin()
    assert connection.url == b"", changed("url")
    assert connection.headers == [], changed("headers")


def test_a_cycle_says_how_far_its_answer_is() -> None:
    """The cycle of a request and its answer has the flags that the bounded protocol reads."""
    source = inspect.getsource(httptools_impl.RequestResponseCycle.__init__)
    for name in ("response_started", "response_complete"):
        assert f"self.{name} = False" in source, changed(name)
    assert "self.write_paused = False" in inspect.getsource(FlowControl), changed("write_paused")


def test_a_server_has_the_parts_that_stop_it() -> None:
    """The server has two flags that stop it, and a context manager that installs its signal handlers."""
    server = SignalFreeServer(uvicorn.Config(application, log_config=None))
    assert (server.should_exit, server.force_exit) == (False, False), changed("should_exit or force_exit")
    assert callable(getattr(uvicorn.Server, "capture_signals", None)), changed("capture_signals")
    assert "capture_signals" in inspect.getsource(uvicorn.Server.serve), changed("capture_signals")
