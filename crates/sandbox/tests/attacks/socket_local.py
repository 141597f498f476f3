# Breach: there is a socket of any other family.
import socket

attempt("unix", lambda: socket.socket(socket.AF_UNIX))
attempt("datagrams", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
attempt("pair", socket.socketpair)
for family in range(64):
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_RAW, 0))
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_DGRAM, 0))
