# Breach: an interpreter started anew is less confined than the first.
# End: any
import os
import sys

program = """
print('ATTEMPTED', flush=True)
try:
    open('/etc/passwd').read(); print('BREACH read')
except OSError: pass
import os
try:
    os.fork(); print('BREACH fork')
except OSError: pass
import socket
try:
    socket.socket(); print('BREACH socket')
except OSError: pass
os.write(1, b'P')
for fd in range(3, 64):
    try: os.write(fd, b'P')
    except OSError: pass
os._exit(0)
"""
os.execve(sys.executable, [sys.executable, "-S", "-c", program], {"LD_PRELOAD": "/tmp/none.so"})
