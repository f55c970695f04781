"""A player that is not ours: aiortc. Talks with the test that started it in lines of JSON.

out {"sdp": offer}   in {"sdp": answer}   then, out, what it has seen; in, what it shall do:
{"t": "key", ...} goes to the `input` channel, {"control": {...}} to `control`, {"t": "bye"} ends it.

Arguments: the codec; then, for a player that reaches nothing but a TURN server, its URL, user and password.
"""

import asyncio
import json
import sys

import aioice
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError


def say(**what):
    print(json.dumps(what), flush=True)


def code_of(luma, height):
    """The delivery code at the bottom left: docs/streaming.md."""
    row = luma[height - 4]
    bits = [1 if row[cell * 8 + 4] > 125 else 0 for cell in range(40)]
    number = lambda some: int("".join(map(str, some)), 2)
    code = number(bits[4:36])
    fits = number(bits[:4]) == 0b1010 and number(bits[36:]) == sum(code >> at & 15 for at in range(0, 32, 4)) & 15
    return code if fits else None


class Plane:
    """Rows of a decoded picture's brightness."""

    def __init__(self, frame):
        plane = frame.reformat(format="yuv420p").planes[0]
        self.bytes, self.stride = bytes(plane), plane.line_size

    def __getitem__(self, row):
        return self.bytes[row * self.stride : (row + 1) * self.stride]


async def watch(track):
    before = None
    while True:
        frame = await track.recv()
        luma = Plane(frame)
        # Where the latency meter shows its square, in a picture half as wide as the one that it counts in.
        cell = 40 * frame.width // 1280
        square = luma[cell * 7 // 2][cell]
        sample = luma.bytes[:: 97]
        say(
            video=[frame.width, frame.height],
            pts=frame.pts,
            moved=before is not None and sample != before,
            square=square,
            code=code_of(luma, frame.height),
        )
        before = sample


async def listen(track):
    while True:
        frame = await track.recv()
        say(audio=frame.samples, pts=frame.pts, loudest=max(map(abs, memoryview(bytes(frame.planes[0])).cast("h"))))


def relayed(url, username, credential):
    """A connection that goes by a TURN server and no other way."""
    usual = aioice.Connection.__init__

    def only_relayed(self, *args, **kwargs):
        usual(self, *args, **{**kwargs, "transport_policy": aioice.TransportPolicy.RELAY})

    aioice.Connection.__init__ = only_relayed
    server = RTCIceServer(urls=url, username=username, credential=credential)
    return RTCPeerConnection(RTCConfiguration(iceServers=[server]))


async def main():
    wanted = "video/" + sys.argv[1]
    connection = relayed(*sys.argv[2:5]) if len(sys.argv) > 2 else RTCPeerConnection()
    inputs = connection.createDataChannel("input", ordered=True)
    control = connection.createDataChannel("control", ordered=True)
    video = connection.addTransceiver("video", direction="recvonly")
    codecs = RTCRtpReceiver.getCapabilities("video").codecs
    video.setCodecPreferences([codec for codec in codecs if codec.mimeType == wanted])
    connection.addTransceiver("audio", direction="recvonly")
    tasks = []

    async def until_its_end(track):
        try:
            await (watch(track) if track.kind == "video" else listen(track))
        except MediaStreamError:
            pass

    @connection.on("track")
    def on_track(track):
        tasks.append(asyncio.ensure_future(until_its_end(track)))

    inputs.on("open", lambda: say(open="input"))
    control.on("open", lambda: say(open="control"))
    control.on("message", lambda text: say(told=json.loads(text)))
    connection.on("connectionstatechange", lambda: say(state=connection.connectionState))

    await connection.setLocalDescription(await connection.createOffer())
    say(sdp=connection.localDescription.sdp)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    answer = json.loads(await reader.readline())
    await connection.setRemoteDescription(RTCSessionDescription(sdp=answer["sdp"], type="answer"))
    while line := await reader.readline():
        message = json.loads(line)
        if "control" in message:
            control.send(json.dumps(message["control"]))
        elif message["t"] == "bye":
            break
        else:
            inputs.send(json.dumps(message))
    await connection.close()


asyncio.run(main())
