"""What a request tells our connections by the extensions of `httpx.Request`; other transports ignore it.

They stand apart from the code that reads them, which is loaded, with h11, when the first connection is made.
"""

OWNER = "crossmount.owner"
"""The text that names whose the request is. Owners share no connections."""

SINGLE_USE = "crossmount.single_use"
"""No other request may follow on its connection; any value."""

ON_ANSWER = "crossmount.on_answer"
"""A function without arguments; it is called when the final answer begins."""
