//! The next version of `examples/6-replace-yourself.rs`: the same program under another name, which is what it answers
//! with.

#[path = "../../examples/6-replace-yourself.rs"]
mod program;

fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    program::main()
}
