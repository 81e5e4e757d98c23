//! A server that `supervisor exec` replaces with its next version: it uses the socket that it inherits, reports when it
//! is ready, and drains its clients on SIGTERM.
//!
//! ```text
//! cargo build -p examples --example 6-replace-yourself
//! supervisor exec --name shop --listen 127.0.0.1:7777 --ready notify -- target/debug/examples/6-replace-yourself
//! ```
//!
//! Then change it, build it again, and `admin-cli --name shop restart`: connected clients get the
//! notice, new ones get the new version, and none is refused.

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use mastercontrol::worker::Connection;
use mastercontrol::{Address, Handler, Listen, Supervisor, host};

/// Distinguishes one build from another.
const VERSION: &str = concat!(env!("CARGO_CRATE_NAME"), " ", env!("CARGO_PKG_VERSION"));

/// Sends each line back, with its version in front.
struct Versioned;

impl Handler for Versioned {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            let mut line = String::new();
            client.read_line(&mut line)?;
            client.write_all(format!("{VERSION}: {line}").as_bytes())?;
        }
        Ok(())
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }
}

/// The console, the admin socket and the grace period are those of `supervisor exec`, which kills whatever is left at
/// the end of the grace period.
fn supervisor() -> Supervisor {
    Supervisor::new(Versioned).grace(Duration::MAX).signals().last_resort().service_manager()
}

/// Takes the socket and serves. (Public, because a test builds its next version from this file, too.)
pub fn main() -> Result<ExitCode, Box<dyn Error>> {
    // First of all, because nothing else may have taken its descriptor, and no other thread may read the environment.
    let passed = host::passed()?;
    let [Address::Tcp(address)] = passed.addresses()[..] else {
        return Err("no TCP socket was passed, or several: start this by `supervisor exec --listen PORT`".into());
    };
    let report = supervisor().passed(passed).start(Listen::Bind(address))?.wait()?;
    Ok(report.exit().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;

    #[test]
    fn the_example_runs() -> Result<(), Box<dyn Error>> {
        let running = supervisor().start(Listen::Bind("127.0.0.1:0".parse()?))?;
        let mut client = TcpStream::connect(running.address())?;
        client.write_all(b"hello\n")?;
        let answer = format!("{VERSION}: hello\n");
        let mut heard = vec![0; answer.len()];
        client.read_exact(&mut heard)?;
        assert_eq!(String::from_utf8(heard)?, answer);
        running.control().stop(Duration::from_secs(5));
        let mut rest = String::new();
        client.read_to_string(&mut rest)?;
        assert_eq!(rest, "SHUTDOWN\n");
        drop(client);
        running.wait()?;
        Ok(())
    }
}
