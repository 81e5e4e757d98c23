//! An echo server, and a client that disconnects when it is notified that the server is shutting down.
//!
//! The grace period is a minute, but the stop takes no longer than the client needs.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use mastercontrol::worker::handlers::Echo;
use mastercontrol::{Listen, Supervisor};

fn main() -> Result<(), Box<dyn Error>> {
    let running = Supervisor::new(Echo).start(Listen::Bind("127.0.0.1:0".parse()?))?;

    let mut client = TcpStream::connect(running.address())?;
    let mut lines = BufReader::new(client.try_clone()?).lines();
    writeln!(client, "hello")?;
    println!("the server says: {}", lines.next().ok_or("no echo")??);

    running.control().stop(Duration::from_secs(60));
    for line in lines {
        let line = line?;
        println!("the server says: {line}");
        if line == "SHUTDOWN" {
            break;
        }
    }
    drop(client);
    // The client has disconnected, so there is no reason to wait any longer.

    let report = running.wait()?;
    println!(
        "{} notified, {} disconnected, {} forced",
        report.drain.notified,
        report.drain.disconnected,
        report.drain.forced.len()
    );
    assert_eq!((report.drain.notified, report.drain.disconnected, report.drain.forced.len()), (1, 1, 0));
    Ok(())
}

#[test]
fn the_example_runs() -> Result<(), Box<dyn Error>> {
    main()
}
