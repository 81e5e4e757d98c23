//! A protocol of one's own: each message is a length byte and that many bytes, answered in reverse.
//!
//! The connection is idle only while it waits for the first byte of a message. So a client that has sent half a message
//! when the stop begins still gets its answer, and the notice after it.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use mastercontrol::Handler;
use mastercontrol::worker::{Activity, Connection, Server};

struct Reverse;

impl Handler for Reverse {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            let mut length = [0];
            client.read_exact(&mut length)?;
            let mut message = vec![0; length[0].into()];
            client.read_exact(&mut message)?;
            message.reverse();
            client.write_all(&length)?;
            client.write_all(&message)?;
        }
        Ok(())
    }

    /// A message of length 0 means that the server is shutting down.
    fn notice(&self) -> Option<&[u8]> {
        Some(&[0])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::new(Reverse).start(TcpListener::bind("127.0.0.1:0")?)?;
    let stopper = server.stopper();

    let mut client = TcpStream::connect(stopper.address())?;
    client.write_all(b"\x06mas")?;
    // Wait until the handler has seen the first byte.
    while !stopper.connections().iter().any(|client| client.activity == Activity::Busy && client.received > 0) {
        thread::yield_now();
    }
    stopper.stop(Duration::from_secs(60));
    client.write_all(b"ter")?;
    let mut heard = Vec::new();
    client.read_to_end(&mut heard)?;
    drop(client);
    println!("the client heard: {}", heard.escape_ascii());
    assert_eq!(heard, b"\x06retsam\x00");

    let report = server.join()?;
    assert_eq!((report.notified, report.forced.len()), (1, 0));
    Ok(())
}

#[test]
fn the_example_runs() -> Result<(), Box<dyn Error>> {
    main()
}
