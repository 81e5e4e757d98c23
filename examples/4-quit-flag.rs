//! The server thread by itself, without a supervisor: start it, wait for some event, tell it to quit, join it.
//!
//! `worker` alone has no dependencies. Here the event is Enter; anything else works as well, on any system.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use mastercontrol::worker::Server;
use mastercontrol::worker::handlers::Commands;

fn main() -> Result<(), Box<dyn Error>> {
    serve_until(|| {
        io::stdin().read_line(&mut String::new())?;
        Ok(())
    })
}

fn serve_until(event: impl FnOnce() -> io::Result<()>) -> Result<(), Box<dyn Error>> {
    let commands = Commands::new().command("ADD", |numbers| {
        let sum: i64 = numbers.split_whitespace().filter_map(|number| number.parse::<i64>().ok()).sum();
        format!("{sum}\n")
    });
    let server = Server::new(commands).start(TcpListener::bind("127.0.0.1:0")?)?;
    println!("listening on {}, press Enter to stop", server.stopper().address());
    event()?;
    server.stopper().stop(Duration::from_secs(5));
    let report = server.join()?;
    println!("stopped in {:?}, {} clients were notified", report.took, report.notified);
    Ok(())
}

#[test]
fn the_example_runs() -> Result<(), Box<dyn Error>> {
    serve_until(|| Ok(()))
}
