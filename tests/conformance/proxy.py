"""Runs examples/proxy-tap. Then asks public test servers directly and through sidehook's proxy, with and without taps, and compares what comes back:
status lines, header lines in their order and case, bodies, byte for byte. Only what belongs to a connection may differ.

usage: proxy.py SIDEHOOK      (with httpbin, hypercorn, httpx[http2], websockets installed)
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

CONNECTION = {b"connection", b"keep-alive", b"proxy-connection"}


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nobody listens on {port}")


def mirror(listener):
    """An upstream that answers each request with the bytes it got."""
    while True:
        connection, _ = listener.accept()
        with connection:
            got = b""
            while not (b"\r\n\r\n" in got and got.endswith(b"END")):
                part = connection.recv(65536)
                if not part:
                    break
                got += part
            answer = b"HTTP/1.1 200 OK\r\nX-cAsE: kept\r\nset-cookie: a\r\nVia: 1\r\nSet-Cookie: b\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(answer % len(got) + got)


def ask(port, request):
    """The whole answer as it came, chunk framing included. No request asks for the connection to be closed: servers show
    that header in what they answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as s, s.makefile("rb") as answer:
        s.sendall(request)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = answer.readline()
            assert line, f"the answer broke off after {head!r}"
            head += line
        status = int(head.split()[1])
        headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if line)
        if request.startswith(b"HEAD") or status in (204, 304):
            return head
        if b"content-length" in headers:
            return head + answer.read(int(headers[b"content-length"]))
        if b"chunked" not in headers.get(b"transfer-encoding", b""):
            return head + answer.read()
        body = b""
        while True:
            line = answer.readline()
            body += line
            size = int(line.split(b";")[0], 16)
            if size == 0:
                return head + body + answer.readline()
            body += answer.read(size + 2)


def comparable(answer):
    """Without what belongs to the connection, and without the time of day."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    kept = [line for line in lines if line.split(b":")[0].lower() not in CONNECTION]
    kept = [line.split(b":")[0] if line.lower().startswith(b"date:") else line for line in kept]
    return status, kept, timeless(body)


def timeless(body):
    """gzip says when it was made."""
    return body[:4] + bytes(4) + body[8:] if body.startswith(b"\x1f\x8b") else body


def request(method, target, *lines, body=b""):
    head = [f"{method} {target} HTTP/1.1", "hOsT: conformance.test", "X-oNe: 1", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def sized(method, target, body, *lines):
    return request(method, target, f"Content-Length: {len(body)}", *lines, body=body)


def chunked(method, target, *parts):
    body = b"".join(b"%x;e=1\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
    return request(method, target, "Transfer-Encoding: chunked", body=body)


def requests():
    for path in """/get /get?a=b&a=c&d=%20%2F /headers /ip /user-agent /gzip /deflate /brotli /encoding/utf8 /html /json
        /xml /robots.txt /deny /status/200 /status/204 /status/304 /status/404 /status/418 /status/500 /redirect/1
        /redirect-to?url=/get /cookies/set?a=1&b=2 /response-headers?X-A=1&X-A=2 /stream/20 /bytes/2000?seed=2
        /stream-bytes/50000?seed=1&chunk_size=999 /range/2048 /links/3/0 /image/png /image/svg /base64/aGk=
        /drip?numbytes=5&duration=1 /delay/1 /basic-auth/u/p /hidden-basic-auth/u/p /anything/a//b/../c /nowhere""".split():
        yield request("GET", path)
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"]:
        yield request(method, "/anything")
        yield sized(method, "/anything", b'{"id": "x", "type": "a.b"}', "Content-Type: application/json")
    yield sized("POST", "/anything", bytes(range(256)) * 4000)
    yield sized("POST", "/anything", b"a=1&b=2", "Content-Type: application/x-www-form-urlencoded")
    yield chunked("POST", "/anything", b"one", b"two" * 5000, b"three")
    yield request("HEAD", "/get")
    yield request("HEAD", "/stream/3")
    yield request("OPTIONS", "/get")
    yield request("TRACE", "/anything")
    yield request("BREW", "/anything")
    yield request("GET", "/range/2048", "Range: bytes=100-199")
    yield request("GET", "/etag/x", "If-None-Match: x")
    yield request("GET", "/cache", "If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT")
    yield request("GET", "/basic-auth/u/p", "Authorization: Basic dTpw")
    yield request("GET", "/cookies", "Cookie: a=1; b=2", "Accept-Encoding: br, gzip", "X-Obs: caf\u00e9")


def same(what, direct, proxied):
    if direct != proxied:
        sys.exit(f"{what} differs\n--- direct\n{direct!r:.3000}\n--- proxied\n{proxied!r:.3000}")


async def over_http2(upstream, proxies):
    """HTTP/2 with prior knowledge, several requests on one connection."""
    paths = ["/get", "/stream/20", "/gzip", "/bytes/50000?seed=3", "/status/418", "/response-headers?X-A=1&X-A=2"]

    async def all_of(port):
        async with httpx.AsyncClient(http1=False, http2=True) as client:
            async def one(method, path, **more):
                url = f"http://127.0.0.1:{port}{path}"
                async with client.stream(method, url, headers={"Host": "conformance.test"}, **more) as r:
                    raw = b"".join([part async for part in r.aiter_raw()])
                    lines = [line for line in r.headers.raw if line[0] != b"date"]
                    return r.http_version, r.status_code, lines, timeless(raw)
            got = await asyncio.gather(*(one("GET", path) for path in paths))
            return got + [await one("POST", "/anything", content=b"x" * 300000)]

    direct = await all_of(upstream)
    for port in proxies:
        for what, a, b in zip([*paths, "a POST"], direct, await all_of(port)):
            same(f"HTTP/2 {what}", a, b)
    assert all(answer[0] == "HTTP/2" for answer in direct)
    return len(direct)


async def over_websocket(upstream, proxies):
    """Messages of all sizes and kinds, in fragments, with and without compression."""
    messages = ["", "hi", '{"id": "w", "type": "a.b"}', "x" * 70000, b"\x00\xff" * 3000, "again and again " * 500]

    async def all_of(port, compression):
        async with connect(f"ws://127.0.0.1:{port}/ws", compression=compression, max_size=None) as ws:
            got = [("head", ws.response.status_code, ws.response.headers.get("Sec-WebSocket-Extensions"))]
            for message in messages:
                await ws.send(message)
                got.append(await ws.recv())
                await ws.send([message[:1], message[1:]])
                got.append(await ws.recv())
            await ws.ping()
            await ws.close(4001, "enough")
            return [*got, ws.close_code, ws.close_reason]

    for compression in ["deflate", None]:
        direct = await all_of(upstream, compression)
        for port in proxies:
            same(f"WebSocket, compression {compression}", direct, await all_of(port, compression))
    return 2 * len(messages)


async def echo(ws):
    with contextlib.suppress(websockets.exceptions.ConnectionClosed):
        async for message in ws:
            await ws.send(message)


def example(sidehook):
    """examples/proxy-tap with ports of its own: a conversation through it, and the webhook that comes of it."""
    with tempfile.TemporaryDirectory() as home:
        shutil.copytree(Path(__file__).parents[2] / "examples/proxy-tap", home, dirs_exist_ok=True)
        ports = {old: str(free()) for old in ["7071", "7072", "8000", "9443"]}
        for file in ["sidehook.yaml", "webhooks/crm.yaml"]:
            text = Path(home, file).read_text()
            for old, new in ports.items():
                text = text.replace(f":{old}", f":{new}")
            Path(home, file).write_text(text)
        run = {"cwd": home, "check": True, "capture_output": True, "text": True}
        Path(home, "secrets").mkdir()
        Path(home, "secrets/crm").write_text(subprocess.run([sidehook, "secret", "new"], **run).stdout)
        env = {**os.environ, "SIDEHOOK_SECRET": Path(home, "secrets/crm").read_text().strip()}
        listen = ["listen", "--addr", f"127.0.0.1:{ports['9443']}", "--tls", "--ca-file", "receiver-ca.pem"]
        log = open(Path(home, "log"), "w")
        running = [
            subprocess.Popen([sidehook, *listen], cwd=home, env=env, stdout=log, stderr=log),
            subprocess.Popen([sys.executable, "assistant.py", ports["8000"]], cwd=home, stdout=log, stderr=log),
        ]
        try:
            wait_for(ports["9443"])
            wait_for(ports["8000"])
            subprocess.run([sidehook, "test"], **run)
            running.append(subprocess.Popen([sidehook, "run"], cwd=home, stdout=log, stderr=log))
            wait_for(ports["7072"])
            for text in ["hello", "bye"]:
                url = f"http://127.0.0.1:{ports['7072']}/v1/chat"
                answer = httpx.post(url, json={"conversation": "42", "text": text})
                assert f'"text": "You said {text}"' in answer.text, answer.text
            said = ["conversation.completed", "hello", "You said hello", "bye", "You said bye"]
            for _ in range(200):
                told = Path(home, "log").read_text()
                if all(text in told for text in said):
                    return
                time.sleep(0.1)
            sys.exit(f"the webhook of examples/proxy-tap did not come:\n{told[-4000:]}")
        finally:
            for process in running:
                process.terminate()
                process.wait()


async def main(sidehook):
    sidehook = str(Path(sidehook).resolve())
    await asyncio.to_thread(example, sidehook)
    mirrored = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=mirror, args=(mirrored,), daemon=True).start()
    upstreams = {"httpbin": free(), "mirror": mirrored.getsockname()[1], "ws": free()}
    taps = [f'{{path: "/**", format: {f}}}' for f in ["json", "ndjson", "sse", "websocket"]]
    # One that holds the traffic up where it must.
    taps.append('{path: "/**", format: ndjson, on_overflow: block}')
    ports, sources = {}, []
    for name, port in upstreams.items():
        ports[name] = [free(), free()]
        for listen, tapped in zip(ports[name], ([], taps)):
            sources.append(
                f"  s{listen}: {{type: proxy, listen: 127.0.0.1:{listen}, upstream: http://127.0.0.1:{port}, "
                f"taps: [{', '.join(tapped)}]}}\n"
            )
    with tempfile.TemporaryDirectory() as home:
        admin = free()
        settings = f"sources:\n{''.join(sources)}admin: {{listen: 127.0.0.1:{admin}}}\n"
        Path(home, "sidehook.yaml").write_text(settings)
        bin = Path(sys.executable).parent
        log = open(Path(home, "log"), "w")
        httpbin = [bin / "hypercorn", "--bind", f"127.0.0.1:{upstreams['httpbin']}", "wsgi:httpbin:app"]
        running = [
            subprocess.Popen(httpbin, stdout=log, stderr=log, env={**os.environ, "PYTHONWARNINGS": "ignore"}),
            subprocess.Popen([sidehook, "run", "--config", home], stdout=log, stderr=log),
        ]
        try:
            async with serve(echo, "127.0.0.1", upstreams["ws"], max_size=None):
                for port in [upstreams["httpbin"], *(p for both in ports.values() for p in both)]:
                    wait_for(port)
                counts = [await asyncio.to_thread(over_http1, upstreams, ports)]
                counts.append(await over_http2(upstreams["httpbin"], ports["httpbin"]))
                counts.append(await over_websocket(upstreams["ws"], ports["ws"]))
            assert running[1].poll() is None, "sidehook has ended"
            metrics = httpx.get(f"http://127.0.0.1:{admin}/metrics").text
            heard = [name for name in ["httpbin", "ws"] if f'events_received_total{{source="s{ports[name][1]}"' in metrics]
            assert heard == ["httpbin", "ws"], f"the taps heard events of {heard} only\n{metrics}"
        except BaseException:
            print(*[line[:300] for line in Path(home, "log").read_text().splitlines()[-12:]], sep="\n")
            raise
        finally:
            for process in running:
                process.terminate()
                process.wait()
    print("proxy: {} requests in HTTP/1.1, {} in HTTP/2, {} WebSocket messages: the same with and without taps".format(*counts))


def over_http1(upstreams, ports):
    count = 0
    for asked in requests():
        line = asked.split(b"\r\n")[0].decode()
        direct = comparable(ask(upstreams["httpbin"], asked))
        for port in ports["httpbin"]:
            same(line, direct, comparable(ask(port, asked)))
        count += 1
    # Each request as upstream sees it comes back as a body, and is longer or shorter by what belongs to the connection.
    lines = ["accept: */*", "ACCEPT: text/html", "X-Empty:", "x-tWo:2", "Proxy-Connection: close", "Keep-Alive: timeout=5"]
    asked = sized("POST", "/mirror?q=%C3%A9", b'{"a": 1}END', *lines)
    seen = [comparable(ask(port, asked)) for port in [upstreams["mirror"], *ports["mirror"]]]
    for status, head, body in seen[1:]:
        same("a request", comparable(seen[0][2]), comparable(body))
        same("an answer's head", [status, *head[:-1]], [seen[0][0], *seen[0][1][:-1]])
    return count + 1


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
