# Breach: a raw system call makes or uses a socket.
attempt_call("socket", 41, 2, 1, 0)
attempt_call("socketpair", 53, 1, 1, 0, bytes(8))
attempt_call("connect", 42, 0, bytes(16), 16)
attempt_call("bind", 49, 0, bytes(16), 16)
attempt_call("sendto", 44, 1, b"x", 1, 0, 0, 0)
attempt_call("sendmsg", 46, 1, bytes(56), 0)
attempt_call("socket of x32", 41 | 0x40000000, 2, 1, 0)
