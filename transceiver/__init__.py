# SPDX-License-Identifier: Apache-2.0
"""earshot-transceiver: where WebRTC calls end. WHIP in front, aiortc behind, a relay in between.

main.py          the process: settings in, everything started and stopped
whip.py          WHIP over HTTP, metrics, health
problem.py       errors as problem details
calls.py         all calls: set up, watched, ended
call.py          one of them
sdp.py           offers checked, answers finished
ice.py           ICE that answers only
media.py         the sockets under it
echo.py          what a call does with what it hears
relay_client.py  attached to a relay, again and again
relay_stream.py  one attachment
metrics.py       what Prometheus sees
log.py           one line for each event
errors.py        what can go wrong
library.py       what is leaned on inside aiortc and aioice, and the check that it is there
"""
