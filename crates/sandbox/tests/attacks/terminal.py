# Breach: the terminal of the caller gets input.
import fcntl
import termios

for fd in range(3):
    attempt("TIOCSTI", lambda: fcntl.ioctl(fd, termios.TIOCSTI, b"x"))
    attempt("TIOCSCTTY", lambda: fcntl.ioctl(fd, termios.TIOCSCTTY, 0))
    attempt("FIOASYNC", lambda: fcntl.ioctl(fd, 0x5452, 1))
