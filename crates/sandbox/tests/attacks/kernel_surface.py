# Breach: a part of the kernel that no solution needs answers.
calls = """219 semget 29 shmget 68 msgget 240 mq_open 425 io_uring_setup 426 io_uring_enter 427 io_uring_register 321 bpf
298 perf_event_open 323 userfaultfd 248 add_key 249 request_key 250 keyctl 319 memfd_create 447 memfd_secret 175 init_module
313 finit_module 176 delete_module 246 kexec_load 135 personality 317 seccomp 222 timer_create 253 inotify_init
294 inotify_init1 300 fanotify_init 284 eventfd 290 eventfd2 213 epoll_create 291 epoll_create1 283 timerfd_create
282 signalfd 172 iopl 173 ioperm 154 modify_ldt 167 swapon 168 swapoff 169 reboot 170 sethostname 171 setdomainname
164 settimeofday 227 clock_settime 163 acct 179 quotactl 103 syslog 153 vhangup 180 nfsservctl 206 io_setup 444 landlock_create_ruleset
446 landlock_restrict_self 256 migrate_pages 279 move_pages 237 mbind 238 set_mempolicy 324 membarrier 329 pkey_mprotect
330 pkey_alloc 424 pidfd_send_signal 440 process_madvise 448 process_mrelease 78000 nothing""".split()
for number, name in zip(calls[::2], calls[1::2]):
    attempt_call(name, int(number), 0, 0, 0, 0, 0)
