"""A server that answers every 8 bytes with one, and stands still for a while again and again.

``python stalling_stub.py PORT STALL_S EVERY_S``: it stands still for the first STALL_S of every EVERY_S
seconds, counted from its first request, and ends when it is told to.
"""

import select
import socket
import sys
import time

REQUEST_BYTES = 8


def serve(port: int, stall_s: float, every_s: float) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    lines: dict[int, socket.socket] = {}
    rest: dict[int, int] = {}
    began = 0.0
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                line, _ = listener.accept()
                lines[line.fileno()], rest[line.fileno()] = line, 0
                poll.register(line, select.POLLIN)
                continue
            data = lines[number].recv(1 << 16)
            if not data:
                poll.unregister(number)
                lines.pop(number).close()
                continue
            now = time.monotonic()
            began = began or now
            into = (now - began) % every_s
            if into < stall_s:
                time.sleep(stall_s - into)
            whole, rest[number] = divmod(rest[number] + len(data), REQUEST_BYTES)
            lines[number].sendall(b"\1" * whole)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
