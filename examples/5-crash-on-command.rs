//! A server that crashes on command, to show what the supervisor does then: it echoes what it receives, and after
//! `CRASH` its accepting thread panics as soon as another client connects.
//!
//! ```text
//! cargo run -p examples --example 5-crash-on-command -- --name fragile --listen 127.0.0.1:7777
//! admin-cli --name fragile status
//! ```

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mastercontrol::worker::Connection;
use mastercontrol::{AdminSocket, Console, Handler, Journal, Listen, Log, RestartPolicy, Supervisor};

#[derive(Default)]
struct Fragile {
    crash: AtomicBool,
}

impl Handler for Fragile {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            let mut line = String::new();
            client.read_line(&mut line)?;
            self.crash.store(line.trim() == "CRASH", Ordering::SeqCst);
            client.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }

    /// Runs on the accepting thread: a panic here ends the server.
    fn admits(&self, _peer: SocketAddr) -> bool {
        assert!(!self.crash.load(Ordering::SeqCst), "crashed on command");
        true
    }
}

/// Each generation has a new handler, without the state that made the last one crash.
fn supervisor() -> Supervisor {
    Supervisor::with_factory(|_settings| Ok(Arc::new(Fragile::default())))
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let argument = |name: &str| std::env::args().skip_while(|argument| argument != name).nth(1);
    let address = argument("--listen").unwrap_or_else(|| "127.0.0.1:7777".into());
    let policy = RestartPolicy { max_restarts: 5, ..RestartPolicy::default() };
    let journal = Journal::new(Log::text());
    journal.record_panics();
    let mut supervisor = supervisor().kind("fragile").restart(policy);
    supervisor = supervisor.console(Console::Terminal).signals().last_resort().journal(journal);
    if let Some(name) = argument("--name") {
        supervisor = supervisor.name(name.parse()?).admin(AdminSocket::Require);
    }
    let exit = match supervisor.start(Listen::Bind(address.parse()?))?.wait() {
        Ok(report) => report.exit(),
        Err(error) => error.exit(),
    };
    Ok(exit.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;
    use std::time::Duration;

    #[test]
    fn the_example_runs() -> Result<(), Box<dyn Error>> {
        let running = supervisor().start(Listen::Bind("127.0.0.1:0".parse()?))?;
        let mut client = TcpStream::connect(running.address())?;
        client.write_all(b"CRASH\n")?;
        client.read_exact(&mut [0; 6])?;
        let _its_last = TcpStream::connect(running.address())?;
        let mut heard = String::new();
        client.read_to_string(&mut heard)?;
        assert_eq!(heard, "SHUTDOWN\n");
        drop(client);
        // This client waits in the queue until a server is running again.
        let mut client = TcpStream::connect(running.address())?;
        client.write_all(b"hello\n")?;
        client.read_exact(&mut [0; 6])?;
        drop(client);
        running.control().stop(Duration::from_secs(5));
        running.wait()?;
        Ok(())
    }
}
