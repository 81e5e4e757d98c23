//! Measures beside peers in the same run, since machines differ and are noisy: read the ratios, not the figures.
//!
//! ```text
//! cargo bench -p mastercontrol-e2e                # everything, about six minutes
//! cargo bench -p mastercontrol-e2e -- stop idle   # only these: stop, idle, echo, http, restart, events, status
//! ```
//!
//! Peers that are not installed (nginx, lighttpd, python3, runit; wrk for HTTP) are left out.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may end with a panic")]

#[cfg(unix)]
mod echo;
#[cfg(unix)]
mod events;
#[cfg(unix)]
mod http;
#[cfg(unix)]
mod idle;
#[cfg(unix)]
mod peers;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod restart;
#[cfg(unix)]
mod status;
#[cfg(unix)]
mod stop;

#[cfg(windows)]
fn main() {
    println!("the peers are Unix programs: run this there");
}

#[cfg(unix)]
fn main() {
    // Cargo passes `--bench`, too.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let sections: [(&str, fn()); 7] = [
        ("stop", stop::run),
        ("idle", idle::run),
        ("echo", echo::run),
        ("http", http::run),
        ("restart", restart::run),
        ("events", events::run),
        ("status", status::run),
    ];
    for (name, run) in sections {
        if wanted.is_empty() || wanted.iter().any(|section| section == name) {
            println!("\n== {name}");
            run();
        }
    }
}
