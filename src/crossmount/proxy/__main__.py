import asyncio, sys, logging
from pathlib import Path
from crossmount.index import open_index
from crossmount.proxy.server import serve
from crossmount.proxy.settings import ProxySettings
async def main():
    up, port, index, spool = sys.argv[1:5]
    idx = open_index(index)
    try:
        await serve(ProxySettings(upstream=up, port=int(port), spool=Path(spool) if spool!="off" else None), idx, ready=lambda r: print(r.url, flush=True))
    finally:
        await idx.aclose()
logging.basicConfig(level=logging.INFO)
if "-q" in sys.argv: logging.disable(logging.INFO)
asyncio.run(main())
