# SPDX-License-Identifier: Apache-2.0
"""Speech backends that come with Earshot, and what they are made of. They know proto/ alone.

session.py     one session, as a backend's own code sees it
service.py     the gRPC service around sessions, and the process around it
echo.py        says again what it hears, as a process of its own: a first backend, and a measure
agent.py       earshot-agent: a small voice agent without a network, a reference of a real one
turns.py       when somebody begins and ends to speak
recogniser.py  words, by pocketsphinx and a small grammar
voice.py       speech, by espeak-ng
replies.py     what the agent answers
"""
