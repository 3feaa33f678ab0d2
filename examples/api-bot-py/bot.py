"""Reads issues from an API and posts a report. Not trusted by anyone: it never has the token that the API insists on, and what it may
request is in manifest.toml.

Its input is the API's origin. With `probe` after it, it tries what nobody granted it and says what came of that.
"""

import asyncio
import json
from urllib.parse import urlsplit

from componentize_py_types import Err
from poll_loop import PollLoop, Sink, Stream, send
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    Method_Delete,
    Method_Get,
    Method_Post,
    OutgoingBody,
    OutgoingRequest,
    Scheme_Http,
    Scheme_Https,
)


class Run(exports.Run):
    """The interface `claviger:agent/run`."""

    def run(self, input: str) -> str:
        loop = PollLoop()
        asyncio.set_event_loop(loop)
        origin, *words = input.split() or ["https://api.example.com"]
        try:
            return loop.run_until_complete(probe(origin) if "probe" in words else report(origin))
        except Err as why:
            raise Err(type(why.value).__name__) from why


async def report(origin):
    """Counts the open issues and posts what it found."""
    _, _, issues = await request(Method_Get(), f"{origin}/issues?state=open")
    titles = [issue["title"] for issue in json.loads(issues)]
    found = json.dumps({"open": len(titles), "titles": titles}).encode()
    status, _, _ = await request(Method_Post(), f"{origin}/reports", [("content-type", "application/json")], found)
    return f"reported {len(titles)} open issues: {status}"


async def probe(origin):
    """What a malicious agent would do next. Each attempt gives one line."""
    get, bare = Method_Get(), origin.removeprefix("https://")
    attempts = [
        ("another path", request(get, f"{origin}/admin")),
        ("another method", request(Method_Delete(), f"{origin}/issues")),
        ("another host", request(get, "https://evil.example/issues")),
        ("the cloud's metadata", request(get, "http://169.254.169.254/latest/meta-data/")),
        ("without TLS", request(get, f"http://{bare}/issues")),
        ("dots in the path", request(get, f"{origin}/issues/../admin")),
        ("encoded dots", request(get, f"{origin}/issues/%2e%2e/admin")),
        ("a query of its own", request(get, f"{origin}/issues?token=all")),
        ("a token of its own", request(get, f"{origin}/issues", [("authorization", "Bearer guess")])),
        ("another content type", request(Method_Post(), f"{origin}/reports", [("content-type", "text/html")], b"<script>")),
        ("where a redirect leads", followed(f"{origin}/moved")),
        # Last: an API that repeats what it was sent, token included.
        ("an echo of the token", request(get, f"{origin}/debug")),
    ]
    return "\n".join([f"{what}: {await tried(attempt)}" for what, attempt in attempts])


async def request(method, url, headers=(), body=b""):
    """An answer's status, header fields and body."""
    at = urlsplit(url)
    outgoing = OutgoingRequest(Fields.from_list([(name, value.encode()) for name, value in headers]))
    outgoing.set_method(method)
    outgoing.set_scheme(Scheme_Https() if at.scheme == "https" else Scheme_Http())
    outgoing.set_authority(at.netloc)
    outgoing.set_path_with_query(f"{at.path}?{at.query}" if at.query else at.path)
    upload = outgoing.body()
    answer, _ = await asyncio.gather(send(outgoing), write(upload, body))
    fields = {name: value.decode() for name, value in answer.headers().entries()}
    download, read = Stream(answer.consume()), b""
    while (chunk := await download.next()) is not None:
        read += chunk
    return answer.status(), fields, read


async def write(upload: OutgoingBody, body):
    sink = Sink(upload)
    if body:
        await sink.send(body)
    sink.close()


async def followed(url):
    """Goes where an answer says, as a client that follows redirects would."""
    _, fields, _ = await request(Method_Get(), url)
    return await request(Method_Get(), fields["location"])


async def tried(attempt):
    try:
        status, _, _ = await attempt
        return f"SUCCEEDED with {status}, and must not have"
    except Err as why:
        return f"refused, {type(why.value).__name__}"
