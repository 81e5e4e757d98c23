//! The real programs, as their users see them: with real clients, signals, terminals and admin clients.
//!
//! Each test has its own directory, name and port, so all run side by side.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support; // Home, Instance, Process, Client: what the tests are written with.

mod admin; // admin-cli: exit codes, JSON, targets, several stops at the same time.
mod config; // Settings from a file, and admin-cli check.
mod events; // admin-cli events: replayed, followed, and who does not read them.
mod everywhere; // What has to work on every system, Windows included.
#[cfg(target_os = "linux")]
mod haproxy; // Three supervisors behind a real load balancer, restarted one after the other.
mod health; // The HTTP endpoint of --health, and admin-cli metrics.
mod help; // What the programs say about themselves: help, completions, man pages; with and without colours.
mod reconfigure; // What restarts take from a configuration that has changed, and what from one that is wrong.
mod recover; // A server that crashes is started again, until that is too often.
mod restart; // What a restart is for clients and for admin-cli.
mod start; // What stands in the way of a start: names, ports, directories.
mod steer; // What an operator sees of a drain, and can change in it.
mod under_load; // Restarts and stops while clients come and go: none of them loses anything.
mod verify; // --verify: requests meanwhile, and the fate of each.
mod waiting; // For a supervisor that is ready, has restarted, or is gone.

#[cfg(unix)]
mod clients; // curl, nc and Python as clients.
#[cfg(unix)]
mod manager; // The host's service manager: sockets that it passes, what it hears, the files in deploy.
#[cfg(target_os = "linux")]
mod places; // Where instances are found, whatever the environment says.
#[cfg(unix)]
mod quoted; // Command lines, options and settings that pages and files to copy show.
#[cfg(unix)]
mod readme; // What README.md, the book and examples/restart.sh say.
#[cfg(target_os = "linux")]
mod ready; // What shows that a program is ready, and what becomes of one that is not.
#[cfg(unix)]
mod signals; // Signals are acknowledged, the second one closes the rest, nohup is respected.
#[cfg(unix)]
mod structure; // Which file knows of which other one.
#[cfg(unix)]
mod users; // Another user's commands. Needs root.
#[cfg(unix)]
mod versions; // An older client and a newer supervisor, and the other way.

#[cfg(target_os = "linux")]
mod checks; // Programs that are asked whether they work, before they are ready and while they serve.
#[cfg(target_os = "linux")]
mod console; // A real terminal, with a real shell for job control.
#[cfg(target_os = "linux")]
mod crashes; // Programs that crash: what is said of it, and when the next one starts.
#[cfg(target_os = "linux")]
mod deploys; // Releases in directories, and a link that is switched: what a restart starts.
#[cfg(target_os = "linux")]
mod exec; // Any program as the server: stopped, restarted and replaced, with all that it has started.
#[cfg(target_os = "linux")]
mod gunicorn; // The real one, from PyPI, if there is one: restarts under load, and a version that is broken.
#[cfg(target_os = "linux")]
mod kills; // Random kill -9 and suspensions of programs, guardians and supervisors, and what is said of them.
#[cfg(target_os = "linux")]
mod log; // A log that is not read, or not fast enough.
#[cfg(target_os = "linux")]
mod passed; // Sockets that a service manager passes, for programs too.
#[cfg(target_os = "linux")]
mod pause; // Clients and requests wait, and none is lost.
#[cfg(target_os = "linux")]
mod port; // The processes that hold a port, and their end.
#[cfg(target_os = "linux")]
mod process; // What proc(5) tells: threads, descriptors, wake-ups.
#[cfg(target_os = "linux")]
mod pty; // A pseudo-terminal for the tests.
#[cfg(target_os = "linux")]
mod recipes; // The recipes of the book: Node, uvicorn and puma on the socket of --listen.
#[cfg(target_os = "linux")]
mod reference; // The generated pages of the book are what the definitions say.
#[cfg(target_os = "linux")]
mod relay_exec; // Programs that bind a port themselves, behind a relay.
#[cfg(target_os = "linux")]
mod relay_servers; // Servers that others have written, as they are, behind a relay.
#[cfg(target_os = "linux")]
mod relay_sessions; // What programs behind a relay have begun when they are replaced, and idle connections.
#[cfg(target_os = "linux")]
mod replace; // A server under exec is replaced by a new build of itself while clients are connected.
#[cfg(target_os = "linux")]
mod robustness; // Deleted sockets, broken requests, silent clients.
#[cfg(target_os = "linux")]
mod rotation; // Out of rotation and back: signals for the program, and what resume undoes.
#[cfg(target_os = "linux")]
mod seen; // The connections of programs that accept them themselves, seen from outside.
#[cfg(target_os = "linux")]
mod sockets; // Unix sockets for programs, and several addresses.
#[cfg(target_os = "linux")]
mod stopping; // How a program is asked to end, and how long it has.
#[cfg(target_os = "linux")]
mod store; // Listeners that a service manager keeps for the next supervisor.
#[cfg(target_os = "linux")]
mod top; // admin-cli top, on a terminal that can be looked at.
#[cfg(target_os = "linux")]
mod transparent; // As if exec were not there: each exit code, each signal that ends a program, each that is passed on.
#[cfg(any(target_os = "linux", windows))]
mod triggers; // Every trigger with every kind of client.

#[cfg(windows)]
mod service; // A supervisor as a service, with the real service manager.
#[cfg(windows)]
mod windows; // Any program as the server, where there are jobs and no signals.
