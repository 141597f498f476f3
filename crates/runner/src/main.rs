use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mimalloc.h`, versions 2 and 3; its Rust bindings leave it out.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // A training step frees and asks again for the same gigabytes. Given back to the kernel in between, every
    // page of them would be cleared once more: on SmolLM2-135M a third of the step.
    // SAFETY: sets an option of the allocator, which may be done at any time from any thread.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    sharelora::cli::main()
}
