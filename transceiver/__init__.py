# SPDX-License-Identifier: Apache-2.0
"""earshot-transceiver: where WebRTC calls end. WHIP in front, aiortc behind, a relay in between.

main.py          the command: flags in
settings.py      what the flags say
serve.py         one process: everything started and stopped
front.py         with several workers: HTTP in front of them
workers.py       with several workers: their processes
merge.py         with several workers: their metrics as one page
listening.py     where HTTP listens
whip.py          WHIP over HTTP, metrics, health
tokens.py        who may call
cross_origin.py  from which pages
admission.py     whether there is room
problem.py       errors as problem details
etag.py          If-Match
calls.py         all calls of a process: set up, restarted, watched, ended
call.py          one of them
sdp.py           offers checked, answers finished
sdpfrag.py       ICE restarts read and answered
ice.py           ICE that answers only, as aiortc sees it
agent.py         what it decides: credentials, paths, roaming
checks.py        requests judged and answered
mux.py           the UDP socket that all calls share
order.py         packets put in order
dispatch.py      which call a datagram is for
media.py         addresses and counts
speech/          whom a call talks to
backends/        speech backends that come with it, processes of their own
relay_client.py  attached to a relay, again and again
relay_target.py  where the relay is, and how each side knows the other
relay_stream.py  one attachment
metrics.py       what Prometheus sees
log.py           one line for each event
errors.py        what can go wrong
library.py       what is leaned on inside aiortc and aioice, and the check that it is there
"""
