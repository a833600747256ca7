# SPDX-License-Identifier: Apache-2.0
"""What calls talk to: the echo in this process, or a speech backend over gRPC (proto/earshot/speech/v1).

conversation.py  what a call asks of whoever it talks to, and the other way round
echo.py          the embedded one
remote.py        one that a backend carries: begun, begun anew, ended
stream.py        one attempt at that: a Converse stream
ledger.py        how much of the client's sound is on its way to a backend
pool.py          the backends, their health, and which one is next
playout.py       speech as a track, in real time
buffer.py        speech that waits to be played
codec.py         Opus and samples
messages.py      what clients may send over a data channel
"""
