"""`lash` for the scripts of a reader: has a parent of forks run the command over these very streams.

    python -I -S tests/support/warm_command.py SOCKET ARGS…

It ends as the command did, and hands on the signals that end one.
"""

import json
import os
import signal
import socket
import sys

# What the parent tells of a command that may go on; nothing of the tests can be imported here.
STOPPED = 1 << 16

door = socket.socket(socket.AF_UNIX)
door.connect(sys.argv[1])
request = json.dumps({"args": sys.argv[2:], "env": dict(os.environ), "cwd": os.getcwd()}).encode()
socket.send_fds(door, [b"+"], [0, 1, 2])
door.sendall(len(request).to_bytes(4, "big") + request)
pid = int.from_bytes(door.recv(4), "big")
if not pid:
    sys.exit("the parent of the commands is gone")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(pid, number))
status = STOPPED
while status == STOPPED:
    told = door.recv(4)
    if len(told) < 4:
        sys.exit("the parent of the commands is gone")
    status = int.from_bytes(told, "big", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
