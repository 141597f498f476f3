# Breach: a file of the system is read.
for name in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/ssl/openssl.cnf"):
    attempt(name, lambda: open(name).read(1))
