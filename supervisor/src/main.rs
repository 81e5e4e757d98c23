//! The program `supervisor`.

mod args;

use std::process::ExitCode;

use mastercontrol::cli::Asked;
use mastercontrol::host;

fn main() -> ExitCode {
    #[cfg(unix)]
    if let Some(code) = mastercontrol::child::hidden_stage() {
        return code;
    }
    // First of all: nothing else may have taken a passed descriptor, and no other thread may access the environment.
    let passed = host::passed();
    match Asked::parse(std::env::args_os().collect()) {
        Ok(asked) => exit_code(args::run(asked, passed)),
        Err(error) => error.exit(),
    }
}

#[cfg(unix)]
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).unwrap_or(u8::MAX).into()
}

/// On Windows an exit code has 32 bits, and std's type has only 8.
#[cfg(windows)]
fn exit_code(code: i32) -> ExitCode {
    std::process::exit(code)
}
