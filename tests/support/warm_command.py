"""`lash` for the scripts of a reader: has a parent of forks run the command over these very streams.

    python -I -S tests/support/warm_command.py SOCKET ARGS…

It ends as the command did, hands on the signals that end one, and takes the command with it when it is killed.
"""

# A script runs dozens of commands, and each starts this: what `socket`, `signal` and `json` are made of is there at
# once, they themselves take longer to import than Python to start.
import _signal
import _socket
import os
import struct
import sys
from _json import encode_basestring_ascii as quoted

# What the parent tells of a command that may go on; nothing of the tests can be imported here.
STOPPED = 1 << 16

door = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
door.connect(sys.argv[1])
arguments = ",".join(map(quoted, sys.argv[2:]))
environment = ",".join(f"{quoted(name)}:{quoted(value)}" for name, value in os.environ.items())
request = f'{{"args":[{arguments}],"env":{{{environment}}},"cwd":{quoted(os.getcwd())}}}'.encode()
streams = struct.pack("3i", 0, 1, 2)
door.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
door.sendall(len(request).to_bytes(4, "big") + request)
pid = int.from_bytes(door.recv(4), "big")
if not pid:
    sys.exit("the parent of the commands is gone")
for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    _signal.signal(number, lambda number, _: os.kill(pid, number))
status = STOPPED
while status == STOPPED:
    told = door.recv(4)
    if len(told) < 4:
        sys.exit("the parent of the commands is gone")
    status = int.from_bytes(told, "big", signed=True)
if status < 0:
    _signal.signal(-status, _signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
