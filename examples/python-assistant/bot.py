"""An assistant on Pipecat as it comes from PyPI: a pipeline, a script in the model's place, and RTVI over a WebSocket.

It knows nothing of sidehook. BOT_PORT says where it listens (8000).
"""

import asyncio
import os
import sys

from loguru import logger
from pipecat.evals.serializer import EvalSerializer
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.workers.runner import WorkerRunner
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.websocket.server import SingleClientWebsocketServerParams, SingleClientWebsocketServerTransport

ANSWERS = ["Which order is it about?", "It leaves our warehouse today.", "You are welcome."]


class ScriptedModel(FrameProcessor):
    """Answers each text of the user with the next line of the script, word by word as a model would."""

    def __init__(self):
        super().__init__()
        self._turn = 0

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, LLMMessagesAppendFrame):
            answer = ANSWERS[self._turn % len(ANSWERS)]
            self._turn += 1
            await self.push_frame(LLMFullResponseStartFrame())
            for word in answer.split(" "):
                await self.push_frame(LLMTextFrame(text=word + " "))
            await self.push_frame(LLMFullResponseEndFrame())


async def main():
    logger.remove()
    logger.add(sys.stderr, level=os.environ.get("LOG_LEVEL", "WARNING"))
    transport = SingleClientWebsocketServerTransport(
        params=SingleClientWebsocketServerParams(serializer=EvalSerializer()),
        host="127.0.0.1",
        port=int(os.environ.get("BOT_PORT", "8000")),
    )
    pipeline = Pipeline([transport.input(), ScriptedModel(), transport.output()])
    worker = PipelineWorker(pipeline, idle_timeout_secs=None)
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()


asyncio.run(main())
