//! A protocol with a login: whatever a connection remembers from one message to the next is in its session.
//!
//! While a client is quiet, its connection has no thread, so nothing can be kept in a local variable of the handler.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use mastercontrol::worker::{Connection, Server, Session, Sessions};

/// `LOGIN name`, then `WHO`; one per line.
#[derive(Default)]
struct Login {
    user: Option<String>,
}

impl Session for Login {
    fn serve(&mut self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            let mut line = String::new();
            client.read_line(&mut line)?;
            let answer = match (line.trim().split_once(' '), &self.user) {
                (Some(("LOGIN", name)), _) => {
                    self.user = Some(name.to_owned());
                    "welcome\n".to_owned()
                }
                (_, Some(user)) => format!("you are {user}\n"),
                (_, None) => "log in first\n".to_owned(),
            };
            client.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let handler = Sessions::new(|_peer| Login::default()).notice("SHUTDOWN\n");
    let server = Server::new(handler).start(TcpListener::bind("127.0.0.1:0")?)?;
    let stopper = server.stopper();

    let mut client = TcpStream::connect(stopper.address())?;
    let mut answers = BufReader::new(client.try_clone()?);
    let mut ask = |line: &str| {
        client.write_all(line.as_bytes())?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        io::Result::Ok(answer)
    };
    assert_eq!(ask("WHO\n")?, "log in first\n");
    assert_eq!(ask("LOGIN Ada\n")?, "welcome\n");
    // Each of these lines may be served by a different thread.
    let answer = ask("WHO\n")?;
    println!("the client heard: {}", answer.trim_end());
    assert_eq!(answer, "you are Ada\n");

    stopper.stop(Duration::from_secs(5));
    let mut last = String::new();
    answers.read_line(&mut last)?;
    assert_eq!(last, "SHUTDOWN\n");
    drop((client, answers));
    assert_eq!(server.join()?.notified, 1);
    Ok(())
}

#[test]
fn the_example_runs() -> Result<(), Box<dyn Error>> {
    main()
}
