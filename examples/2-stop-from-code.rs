//! A server that is stopped from code: by a handler's own thread, when a client asks for it.
//!
//! A handler only requests the stop and does not wait for it: otherwise it would wait for itself.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use mastercontrol::worker::Connection;
use mastercontrol::{Control, Handler, Listen, Supervisor};

/// Stops the server. It is set only after the server has started, and so after the handler was made.
static CONTROL: OnceLock<Control> = OnceLock::new();

struct StopOnRequest;

impl Handler for StopOnRequest {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        let mut message = [0; 64];
        while client.next_message() {
            let length = client.read(&mut message)?;
            if message[..length].trim_ascii() == b"stop" {
                CONTROL.wait().stop(Duration::from_secs(5));
                client.write_all(b"stopping\n")?;
            }
        }
        Ok(())
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"goodbye\n")
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let running = Supervisor::new(StopOnRequest).start(Listen::Bind("127.0.0.1:0".parse()?))?;
    let control = CONTROL.get_or_init(|| running.control());

    let mut client = TcpStream::connect(running.address())?;
    writeln!(client, "stop")?;
    let mut heard = String::new();
    client.read_to_string(&mut heard)?;
    print!("the server says: {heard}");
    drop(client);
    assert_eq!(heard, "stopping\ngoodbye\n");

    let report = running.wait()?;
    println!("stopped in {:?}, requested by {}", report.drain.took, report.by);
    control.stop(Duration::ZERO); // Asking again does no harm.
    Ok(())
}

#[test]
fn the_example_runs() -> Result<(), Box<dyn Error>> {
    main()
}
