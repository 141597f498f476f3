use std::process::ExitCode;

fn main() -> ExitCode {
    sharelora::allocator::keep_freed_memory();
    sharelora::cli::main()
}
