//! The `highwater` binary: see [`highwater::cli`].

fn main() -> std::process::ExitCode {
    highwater::cli::main()
}
