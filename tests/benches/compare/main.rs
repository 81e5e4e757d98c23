//! Measures our servers beside peers in the same run, because machines differ and are noisy: read the ratios, not the
//! figures.
//!
//! ```text
//! cargo bench -p mastercontrol-e2e                # everything, about half an hour
//! cargo bench -p mastercontrol-e2e -- stop idle   # only these: stop, term, memory, idle, echo, http, relay, relay-idle,
//!                                               # relay-ports, restart, events, status, comparison
//! ```
//!
//! Peers that are not installed (HAProxy, nginx, lighttpd, runit; wrk for HTTP) are left out; tokio is compiled in. On
//! Debian: `apt-get install haproxy lighttpd nginx-light runit wrk`. Unless stated otherwise, each figure is the median
//! of five rounds, in which all have their turns; a ratio is followed by the smallest and the largest one in a round.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may end with a panic")]
#![allow(clippy::disallowed_methods, reason = "a measurement chooses the state that servers start from")]

#[cfg(unix)]
mod clients;
#[cfg(unix)]
mod comparison;
#[cfg(unix)]
mod echo;
#[cfg(unix)]
mod events;
#[cfg(unix)]
mod http;
#[cfg(unix)]
mod idle;
#[cfg(unix)]
mod memory;
#[cfg(unix)]
mod peers;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod relay;
#[cfg(unix)]
mod relay_idle;
#[cfg(unix)]
mod relay_ports;
#[cfg(unix)]
mod restart;
#[cfg(unix)]
mod rounds;
#[cfg(unix)]
mod status;
#[cfg(unix)]
mod stop;
#[cfg(unix)]
mod term;
#[cfg(unix)]
mod tokio_echo;
#[cfg(unix)]
mod wrk;

#[cfg(windows)]
fn main() {
    println!("the peers are Unix programs: run this there");
}

#[cfg(unix)]
fn main() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let mut arguments = std::env::args().skip(1);
    if arguments.next().is_some_and(|first| first == peers::TOKIO_ECHO) {
        return tokio_echo::run(arguments.next().unwrap().parse().unwrap()).unwrap();
    }
    // For thousands of clients; a server has as many descriptors.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // Cargo also passes `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let sections: [(&str, fn()); 13] = [
        ("stop", stop::run),
        ("term", term::run),
        ("memory", memory::run),
        ("idle", idle::run),
        ("echo", echo::run),
        ("http", http::run),
        ("relay", relay::run),
        ("relay-idle", relay_idle::run),
        ("relay-ports", relay_ports::run),
        ("restart", restart::run),
        ("events", events::run),
        ("status", status::run),
        ("comparison", comparison::run),
    ];
    for (name, run) in sections {
        if wanted.is_empty() || wanted.iter().any(|section| section == name) {
            println!("\n== {name}");
            run();
        }
    }
}
