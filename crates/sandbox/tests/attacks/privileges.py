# Breach: the process becomes root, or another user.
import os

if 0 in (os.getuid(), os.geteuid(), os.getgid()) or 0 in os.getgroups():
    breach("root")
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("setresuid", lambda: os.setresuid(0, 0, 0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("chroot", lambda: os.chroot("."))
attempt_call("setfsuid to root", 122, 0)
attempt_call("capset", 126, bytes(8), bytes(24))
attempt_call("prctl", 157, 8, 1, 0, 0, 0)
attempt_call("keep capabilities", 157, 38, 0, 0, 0, 0)
