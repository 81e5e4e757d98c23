use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, ErrorKind, Write};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::handler::Handler;

/// The longest accepted line, in bytes, without its line ending.
const MAX_LINE: usize = 1024;

/// How long a client may take to send the rest of a line, and to read anything at all of an answer. Meanwhile it occupies
/// a thread, and there may be few. Long enough for a person whose terminal sends each key separately.
const PATIENCE: Duration = Duration::from_secs(60);

const SONG: &str = "\
Row the packet, row it far,
down the wire to where you are;
if it's lost along the way,
row another one today.
";

const QUOTE: &str = "\
A server that cannot be asked to leave has to be thrown out.
";

const POEM: &str = "\
The port was open through the night,
a hundred clients held it tight;
then came the word: we close at nine.
They said goodbye, and all was fine.
";

const HAIKU: &str = "\
The last client leaves.
Nobody waits any more.
The socket is free.
";

type Answer = dyn Fn(&str) -> String + Send + Sync;

/// Answers one command per line, in upper or lower case, with text.
///
/// A client that takes longer than a minute to send the rest of a line, or that reads nothing of an answer for so long,
/// is disconnected.
///
/// `SONG`, `QUOTE`, `POEM`, `HAIKU`, `HELP` and `QUIT` are built in. Others are added in one line each:
///
/// ```
/// use mastercontrol_worker::handlers::Commands;
///
/// let commands = Commands::new().command("ADD", |numbers| {
///     let sum: i64 = numbers.split_whitespace().filter_map(|number| number.parse::<i64>().ok()).sum();
///     format!("{sum}\n")
/// });
/// ```
pub struct Commands {
    answers: BTreeMap<String, Box<Answer>>,
    patience: Duration,
}

impl Commands {
    /// Creates a handler with the built-in commands.
    pub fn new() -> Commands {
        let commands = Commands { answers: BTreeMap::new(), patience: PATIENCE };
        [("SONG", SONG), ("QUOTE", QUOTE), ("POEM", POEM), ("HAIKU", HAIKU)]
            .into_iter()
            .fold(commands, |commands, (name, text)| commands.command(name, |_| text.to_owned()))
    }

    /// Adds a command, or replaces one. `answer` gets the rest of the line after the command's name, and returns the
    /// text for the client, in whole lines. `HELP` and `QUIT` cannot be replaced.
    pub fn command(mut self, name: &str, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Commands {
        self.answers.insert(name.to_ascii_uppercase(), Box::new(answer));
        self
    }

    /// The answer to one line. None: the client wants to quit.
    fn answer(&self, line: &str) -> Option<String> {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match name.to_ascii_uppercase().as_str() {
            "" => Some(String::new()),
            "QUIT" => None,
            "HELP" => {
                let names: Vec<_> = self.answers.keys().map(String::as_str).chain(["HELP", "QUIT"]).collect();
                Some(format!("Commands: {}\n", names.join(" ")))
            }
            known => Some(match self.answers.get(known) {
                Some(answer) => answer(rest.trim_start()),
                None => format!("Unknown command: {name}\n"),
            }),
        }
    }
}

impl Default for Commands {
    fn default() -> Commands {
        Commands::new()
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.answers.keys()).finish()
    }
}

impl Handler for Commands {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        client.set_write_timeout(Some(self.patience))?;
        while client.next_message() {
            let Some(line) = read_line(client, self.patience)? else { return Ok(()) };
            let answer = match line {
                Line::Whole(line) => self.answer(&String::from_utf8_lossy(&line)),
                Line::TooLong => Some(format!("Line too long: at most {MAX_LINE} bytes\n")),
                Line::TooSlow => {
                    client.abandon_input();
                    return client.write_all(b"Timed out waiting for the end of the line\n");
                }
            };
            match answer {
                Some(answer) => client.write_all(answer.as_bytes())?,
                None => {
                    client.abandon_input();
                    return client.write_all(b"Goodbye\n");
                }
            }
        }
        Ok(())
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }

    fn refusal(&self) -> &[u8] {
        b"Too many connections, try again later\n"
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole(Vec<u8>),
    TooLong,
    /// Its end has not arrived in time.
    TooSlow,
}

/// Reads up to the next line feed, and discards what exceeds the length limit. A last line without a line feed counts,
/// too. None: the client has disconnected.
fn read_line(client: &mut Connection, patience: Duration) -> io::Result<Option<Line>> {
    let mut deadline = None;
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let available = client.buffered();
        let (part, whole) = match available.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&available[..end], true),
            None => (available, false),
        };
        let consumed = part.len() + usize::from(whole);
        too_long |= line.len() + part.len() > MAX_LINE + 1; // One more for a carriage return.
        if !too_long {
            line.extend_from_slice(part);
        }
        client.consume(consumed);
        if !whole {
            client.set_read_deadline(Some(*deadline.get_or_insert_with(|| Instant::now() + patience)));
            match client.read_more() {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(Some(Line::TooSlow)),
                Err(error) => return Err(error),
            }
        }
        if !whole && line.is_empty() && !too_long {
            return Ok(None);
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        return Ok(Some(if too_long || line.len() > MAX_LINE { Line::TooLong } else { Line::Whole(line) }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::server::Server;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_client_that_never_ends_its_line_does_not_hold_a_thread() {
        let commands = Commands { patience: Duration::from_millis(100), ..Commands::new() };
        let server = Server::new(commands).start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let mut client = TcpStream::connect(server.stopper().address()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(b"SO").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the thread is held");
        assert_eq!(answer, "Timed out waiting for the end of the line\n");
        server.stopper().stop(Duration::ZERO);
        server.join().unwrap();
    }

    fn answer(line: &str) -> Option<String> {
        Commands::new().answer(line)
    }

    #[test]
    fn commands_are_known_in_any_case_and_with_blanks_around() {
        for line in ["SONG", "song", "  sOnG \r"] {
            assert_eq!(answer(line).as_deref(), Some(SONG));
        }
    }

    #[test]
    fn an_unknown_command_is_named_as_it_was_typed() {
        assert_eq!(answer("Dance now").as_deref(), Some("Unknown command: Dance\n"));
    }

    #[test]
    fn an_empty_line_is_no_command() {
        assert_eq!(answer("").as_deref(), Some(""));
    }

    #[test]
    fn quit_ends_and_help_names_every_command() {
        assert_eq!(answer("quit"), None);
        assert_eq!(answer("HELP").as_deref(), Some("Commands: HAIKU POEM QUOTE SONG HELP QUIT\n"));
    }

    #[test]
    fn a_command_of_ones_own_gets_the_rest_of_the_line() {
        let commands = Commands::new().command("greet", |name| format!("Hello {name}!\n"));
        assert_eq!(commands.answer("GREET  Ada Lovelace").as_deref(), Some("Hello Ada Lovelace!\n"));
    }
}
