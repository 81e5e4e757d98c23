//! The program `supervisor`.

mod args;

fn main() -> std::process::ExitCode {
    args::run().into()
}
