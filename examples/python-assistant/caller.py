"""Somebody who talks to the assistant: caller.py URL [--ask] TEXT…

Says each text once the assistant has answered the one before, and prints both sides. With --ask it then asks the assistant to
end the conversation; without, it stays on the line until the connection breaks.
"""

import asyncio
import json
import sys

import websockets


def rtvi(kind, number, data=None):
    return json.dumps({"label": "rtvi-ai", "type": kind, "id": str(number), "data": data or {}})


async def until(connection, kind):
    async for text in connection:
        message = json.loads(text)
        if message["type"] == kind:
            return message.get("data") or {}
    raise SystemExit("the assistant hung up")


async def main(url, texts, ask):
    async with websockets.connect(url) as connection:
        await connection.send(rtvi("client-ready", 0, {"version": "1.0.0", "about": {"library": "caller"}}))
        await until(connection, "bot-ready")
        for number, text in enumerate(texts, 1):
            await connection.send(rtvi("send-text", number, {"content": text}))
            print(f"user: {text}", flush=True)
            answer = await until(connection, "bot-transcription")
            print(f"assistant: {answer['text'].strip()}", flush=True)
        if ask:
            await connection.send(rtvi("disconnect-bot", len(texts) + 1))
            return
        async for _ in connection:
            pass


if __name__ == "__main__":
    url, *words = sys.argv[1:]
    try:
        asyncio.run(main(url, [w for w in words if w != "--ask"], "--ask" in words))
    except websockets.ConnectionClosed as closed:
        raise SystemExit(f"the connection broke: {closed}")
