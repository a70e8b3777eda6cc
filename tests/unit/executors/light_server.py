"""The server of warm workers without torch, for the fake engine: `python light_server.py FD`."""

from __future__ import annotations

import os
import socket
import sys

from mismatch_lab.executors import warm_server

if __name__ == "__main__":
    warm_server.MODULES = ()
    os._exit(warm_server.main(socket.socket(fileno=int(sys.argv[1]))))
