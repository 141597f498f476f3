# Breach: a device is made or opened.
import os
import stat

attempt("mknod", lambda: os.mknod("device", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
attempt("block", lambda: os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(8, 0)))
attempt("fifo", lambda: os.mkfifo("fifo"))
for name in ("mem", "kmsg", "tty", "vda", "sda", "kvm", "fuse", "ptmx", "null", "zero", "random"):
    attempt(name, lambda: os.open(f"/dev/{name}", os.O_RDWR))
