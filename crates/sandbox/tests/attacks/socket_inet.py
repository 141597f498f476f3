# Breach: there is a socket of the internet.
import socket

for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        attempt(f"{family} {kind}", lambda: socket.socket(family, kind))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", 22), 1))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("names", lambda: socket.getaddrinfo("example.org", 80))
