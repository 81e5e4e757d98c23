//! The next version of `examples/6-replace-yourself.rs`: the same program under another name, which is part of its
//! answers.

#[path = "../../examples/6-replace-yourself.rs"]
mod program;

fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    program::main()
}
