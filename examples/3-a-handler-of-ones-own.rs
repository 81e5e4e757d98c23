//! A protocol of one's own: each message is a length byte and that many bytes, answered in reverse.
//!
//! The connection is idle only while it waits for the first byte of a message. So a client that has sent half a message
//! when the stop comes still gets its answer, and the notice after it.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use supervisor::worker::Connection;
use supervisor::{Handler, Supervisor};

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

    /// A message of length 0 means: the server goes away.
    fn notice(&self) -> Option<&[u8]> {
        Some(&[0])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let running = Supervisor::new(Reverse).start("127.0.0.1:0".parse()?)?;
    let control = running.control();

    let mut client = TcpStream::connect(running.address())?;
    client.write_all(&[6])?;
    client.write_all(b"mas")?;
    control.stop(Duration::from_secs(60));
    let rest = thread::spawn({
        let mut client = client.try_clone()?;
        move || client.write_all(b"ter")
    });
    let mut heard = Vec::new();
    client.read_to_end(&mut heard)?;
    rest.join().map_err(|_| "the client panicked")??;
    drop(client);
    println!("the client heard {heard:?}");

    let report = running.wait()?;
    // Had the stop come before the first byte, the client would have heard the notice only.
    assert!(heard == b"\x06retsam\x00" || heard == b"\x00", "{heard:?}");
    assert_eq!((report.drain.told, report.drain.forced.len()), (1, 0));
    Ok(())
}

#[test]
fn the_example_runs() -> Result<(), Box<dyn Error>> {
    main()
}
