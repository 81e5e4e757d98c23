//! The program `supervisor`.

mod args;

fn main() -> std::process::ExitCode {
    #[cfg(unix)]
    if let Some(code) = mastercontrol::child::hidden_stage() {
        return code;
    }
    args::run()
}
