//! Probes that a serving program answers: a connection, a request over HTTP, or a command.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(unix)]
use interprocess::ConnectWaitMode;
#[cfg(unix)]
use interprocess::local_socket::{ConnectOptions, GenericFilePath, ToFsName};

use worker::deadline_after;

use super::family_sockets::{AcceptedBy, FamilySockets};
use crate::listen::Address;
use crate::text::{Reason, Seconds};

/// A probe that a serving program answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It accepts connections at this address. Where the system shows the listener (Linux), an answer of another
    /// process does not count.
    Connect(Address),
    /// It accepts connections on its private port, whichever that is: a program behind a relay has one.
    PrivatePort,
    /// It accepts connections on this port of the loopback interface, over IPv4 or IPv6.
    Port(u16),
    /// It answers a GET of this URL with a status of 2xx. The answer of another process does not count here either.
    Http(Url),
    /// This shell command exits with code 0.
    #[cfg(unix)]
    Exec(String),
}

/// As written on the command line.
impl fmt::Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Probe::Connect(address) => write!(formatter, "connect={address}"),
            Probe::PrivatePort => write!(formatter, "connect"),
            Probe::Port(port) => write!(formatter, "connect={port}"),
            Probe::Http(url) => write!(formatter, "http={url}"),
            #[cfg(unix)]
            Probe::Exec(command) => write!(formatter, "exec={command}"),
        }
    }
}

impl Probe {
    /// The same for a program with this private port.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(super) fn at_port(&self, port: u16) -> Probe {
        match self {
            Probe::PrivatePort => Probe::Port(port),
            Probe::Http(Url { authority, path }) => {
                Probe::Http(Url { authority: with_port(authority, port), path: with_port(path, port) })
            }
            #[cfg(unix)]
            Probe::Exec(command) => Probe::Exec(with_port(command, port)),
            Probe::Connect(_) | Probe::Port(_) => self.clone(),
        }
    }

    /// Whether it needs a private port.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) fn needs_private_port(&self) -> bool {
        match self {
            Probe::PrivatePort => true,
            Probe::Http(url) => url.authority.ends_with(":{port}"),
            Probe::Connect(_) | Probe::Port(_) => false,
            #[cfg(unix)]
            Probe::Exec(_) => false,
        }
    }

    /// The address from which the answer has to come. None: unknown.
    pub(super) fn address(&self) -> Option<Address> {
        match self {
            Probe::Connect(address) => Some(address.clone()),
            Probe::PrivatePort => None,
            Probe::Port(port) => Some(Address::Tcp((Ipv4Addr::LOCALHOST, *port).into())),
            Probe::Http(url) => url.addresses(RESOLVED).ok()?.first().copied().map(Address::Tcp),
            #[cfg(unix)]
            Probe::Exec(_) => None,
        }
    }
}

/// The text with `{port}` replaced by the private port.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) fn with_port(text: &str, port: u16) -> String {
    text.replace("{port}", &port.to_string())
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has answered; the text says how: `it answers on …`.
    Answered(String),
    Failed(String),
    /// Another generation of the program has answered, on a socket that both have from us, or it is unknown which one
    /// has.
    OfAnother,
    /// The same if it cannot be known which one has, for this reason.
    Unclear(String),
}

/// An `http` URL: a host, with or without a port, and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// As written in the URL.
    authority: String,
    /// The path and the query.
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        let words = "say an http URL: http://127.0.0.1:8080/health";
        if text.starts_with("https://") {
            return Err(format!("TLS is not supported here; {words}"));
        }
        let rest = text.strip_prefix("http://").ok_or(words)?;
        let rest = rest.split('#').next().unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
        let is_wrong = |letter: char| !letter.is_ascii_graphic() || letter == '@';
        if authority.is_empty()
            || text.chars().any(is_wrong)
            || port.is_some_and(|port| port != "{port}" && port.parse::<u16>().is_err())
        {
            return Err(words.into());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url { authority: authority.into(), path: format!("{slash}{path}") })
    }
}

impl Url {
    /// The addresses of its host, if they are found within this time.
    fn addresses(&self, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        let has_port = self.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { self.authority.clone() } else { format!("{}:80", self.authority) };
        match host.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => resolve_within(limit, &self.authority, move || host.to_socket_addrs().map(Iterator::collect)),
        }
    }
}

/// How many answers of the system about names may be outstanding.
const UNRESOLVED: usize = 4;

/// The addresses that are found within this time. The system may take much longer to answer, and cannot be asked to
/// stop: the thread named `resolver` is then left behind until it does. If there are too many of these, nothing is asked.
fn resolve_within(
    limit: Duration,
    authority: &str,
    resolve: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> io::Result<Vec<SocketAddr>> {
    static OUTSTANDING: AtomicUsize = AtomicUsize::new(0);
    if OUTSTANDING.load(Ordering::SeqCst) >= UNRESOLVED {
        return Err(io::Error::other(format!("the system does not say which address {authority} has")));
    }
    let (found, addresses) = mpsc::channel();
    let ask = move || {
        let result = resolve();
        OUTSTANDING.fetch_sub(1, Ordering::SeqCst);
        drop(found.send(result)); // It may come too late.
    };
    OUTSTANDING.fetch_add(1, Ordering::SeqCst);
    let asked = thread::Builder::new().name("resolver".into()).spawn(ask);
    asked.inspect_err(|_| _ = OUTSTANDING.fetch_sub(1, Ordering::SeqCst))?;
    addresses.recv_timeout(limit).unwrap_or_else(|_| {
        Err(io::Error::other(format!("the address of {authority} was not found within {}", Seconds(limit))))
    })
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority, self.path)
    }
}

/// Whether the program accepts connections there. The probe is not a client: it disconnects at once.
pub(super) fn connect(address: &Address, program: &FamilySockets) -> Outcome {
    match program.listen_at(address) {
        Some(false) => Outcome::Failed(format!("it does not listen on {address}")),
        Some(true) | None if takes_connections(address) => Outcome::Answered(format!("it answers on {address}")),
        Some(true) | None => Outcome::Failed(format!("it takes no connection on {address}")),
    }
}

/// The same on this port of the loopback interface.
pub(super) fn connect_to_port(port: u16, program: &FamilySockets) -> Outcome {
    let address = program.at_port(port).unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into());
    connect(&Address::Tcp(address), program)
}

/// Whether anything accepts connections there.
fn takes_connections(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok(),
        // Does not wait: a socket with a full queue counts as accepting, too.
        #[cfg(unix)]
        Address::Unix(path) => path.as_path().to_fs_name::<GenericFilePath>().is_ok_and(|name| {
            ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred).connect_sync().is_ok()
        }),
    }
}

/// Waits until a process has accepted the connection, or until it is known that one does so only after the client has
/// sent something.
fn wait_until_accepted(client: &TcpStream, program: &FamilySockets, end: Instant) -> AcceptedBy {
    let mut pause = LOOKS.0;
    loop {
        match program.accepted_by(client) {
            AcceptedBy::NoneYet if Instant::now() + pause < end => thread::sleep(pause),
            by => return by,
        }
        pause = (pause * 2).min(LOOKS.1);
    }
}

/// Whether the program answers a GET with a status of 2xx.
pub(super) fn http(url: &Url, program: &FamilySockets, limit: Duration) -> Outcome {
    let end = deadline_after(Instant::now(), limit);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Outcome::Failed(format!("no answer within {}", Seconds(limit)))
        }
        io::ErrorKind::ConnectionRefused => Outcome::Failed(format!("nothing listens on {}", url.authority)),
        _ => Outcome::Failed(Reason(&error).to_string()),
    };
    loop {
        let answer = connect_http(url, end).and_then(|(client, address)| {
            if program.listen_at(&Address::Tcp(address)) == Some(false) {
                return Ok(Outcome::Failed(format!("it does not listen on {address}")));
            }
            request(url, client, program, limit, end)
        });
        match answer.unwrap_or_else(failed) {
            // This generation may be faster next time.
            Outcome::OfAnother | Outcome::Unclear(_) if Instant::now() + AGAIN < end => thread::sleep(AGAIN),
            outcome => return outcome,
        }
    }
}

/// How long to wait before connecting again when another generation has accepted. Nothing announces when this
/// generation would accept.
const AGAIN: Duration = Duration::from_millis(20);

/// How long to wait before looking a second time which process has accepted a connection, and the longest wait between
/// two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// The longest wait for an answer of another generation, which may hang.
const OF_ANOTHER: Duration = Duration::from_millis(100);

/// How long to look for the address of a name when nothing is asked there. A stop has to wait for that.
const RESOLVED: Duration = Duration::from_secs(1);

/// The longest answer that is read completely.
const LONGEST: usize = 64 * 1024;

fn connect_http(url: &Url, end: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", url.authority));
    for address in url.addresses(remaining(end)?)? {
        match TcpStream::connect_timeout(&address, remaining(end)?) {
            Ok(client) => return Ok((client, address)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The remaining time.
fn remaining(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn request(
    url: &Url,
    mut client: TcpStream,
    program: &FamilySockets,
    limit: Duration,
    end: Instant,
) -> io::Result<Outcome> {
    let Url { authority, path } = url;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: mastercontrol\r\nConnection: close\r\n\r\n");
    // Sent in one piece if possible: a server may answer the first piece that it gets, and close.
    let mut request = request.as_bytes();
    let mut accepted = wait_until_accepted(&client, program, end);
    if accepted == AcceptedBy::NoneBeforeData {
        // All but the last byte: a complete request could be answered at once, which would close the connection.
        let (most, rest) = request.split_at(request.len() - 1);
        client.set_write_timeout(Some(remaining(end)?))?;
        client.write_all(most)?;
        request = rest;
        accepted = wait_until_accepted(&client, program, end);
    }
    let answer = match accepted {
        // Its time starts here: on a machine with many connections, finding the process that has accepted takes long.
        AcceptedBy::TheProgram => exchange(client, request, deadline_after(Instant::now(), limit))?,
        AcceptedBy::Another | AcceptedBy::Unknown | AcceptedBy::Hidden(_) => {
            // Some servers do not survive a client that disconnects without sending anything. The answer does not
            // matter.
            let _ = exchange(client, request, end.min(Instant::now() + OF_ANOTHER));
            return Ok(match accepted {
                AcceptedBy::Hidden(pid) => Outcome::Unclear(hidden(pid)),
                _ => Outcome::OfAnother,
            });
        }
        AcceptedBy::NoneYet | AcceptedBy::NoneBeforeData => return Err(io::ErrorKind::TimedOut.into()),
    };
    Ok(match status_of(&answer) {
        Some((200..300, status)) => Outcome::Answered(format!("it answers {url} with {status}")),
        Some((_, status)) => Outcome::Failed(format!("it answers {status}")),
        None if answer.is_empty() => Outcome::Failed("it closed the connection without an answer".into()),
        None => Outcome::Failed("its answer is not HTTP".into()),
    })
}

/// Why it cannot be known whether the program has answered, if this process of it may not be inspected.
fn hidden(pid: u32) -> String {
    format!(
        "it cannot be determined which generation answers, because process {pid} of the program may not be inspected \
         (that needs CAP_SYS_PTRACE); use --relay or --ready notify"
    )
}

/// Sends a request, and reads the complete answer: a server may complain about a client that does not.
fn exchange(mut client: TcpStream, request: &[u8], end: Instant) -> io::Result<Vec<u8>> {
    client.set_write_timeout(Some(remaining(end)?))?;
    client.write_all(request)?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while answer.len() < LONGEST {
        let read = remaining(end).and_then(|remaining| {
            client.set_read_timeout(Some(remaining))?;
            client.read(&mut piece)
        });
        match read {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The status line has arrived.
            Err(_) if answer.contains(&b'\n') => break,
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// The status of an answer, as a number and as text: `503 Service Unavailable`.
fn status_of(answer: &[u8]) -> Option<(u16, String)> {
    let line = answer.split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let (version, status) = line.trim_end().split_once(' ')?;
    let code = status.split(' ').next()?.parse().ok().filter(|_| version.starts_with("HTTP/1."))?;
    Some((code, status.chars().filter(|letter| !letter.is_control()).take(100).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashMap;
    use std::net::TcpListener;

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_answers_as_soon_as_it_listens_even_if_its_queue_is_full() {
        use nix::sys::socket::{Backlog, listen};
        use std::fs;
        use std::os::unix::net::{UnixListener, UnixStream};

        let path = std::env::temp_dir().join(format!("mastercontrol-takes-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let address = Address::Unix(path.clone());
        assert!(!takes_connections(&address));
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let _in_the_queue = UnixStream::connect(&path).unwrap();
        assert!(takes_connections(&address));
        drop(listener);
        assert!(!takes_connections(&address));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_http_url_is_read_and_nothing_else() {
        for (text, shown) in [
            ("http://127.0.0.1:8080/health", "http://127.0.0.1:8080/health"),
            ("http://localhost", "http://localhost/"),
            ("http://[::1]:80?a=b", "http://[::1]:80/?a=b"),
            ("http://[::1]/#part", "http://[::1]/"),
            ("http://localhost:{port}/a", "http://localhost:{port}/a"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), shown);
        }
        for text in
            ["", "8080", "http://", "http:///a", "https://a/", "http://a:x/", "http://a b/", "http://me@a/", "ftp://a/"]
        {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_without_an_answer_holds_nothing_up() {
        let (answers, never) = mpsc::channel::<()>();
        let resolve = move || {
            let _ = never.recv();
            Ok(Vec::new())
        };
        let error = resolve_within(Duration::from_millis(1), "name:80", resolve).unwrap_err().to_string();
        assert_eq!(error, "the address of name:80 was not found within 1 ms");
        drop(answers);
        let addresses = |url: &str| url.parse::<Url>().unwrap().addresses(Duration::from_secs(45)).unwrap();
        assert_eq!(addresses("http://127.0.0.1/"), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(addresses("http://[::1]:8080/"), ["[::1]:8080".parse().unwrap()]);
    }

    /// The result of a probe of a server that gives this answer and then closes the connection.
    fn probed(answer: &'static [u8]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/health", listener.local_addr().unwrap()).parse().unwrap();
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 1000];
            let length = client.read(&mut request).unwrap();
            client.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let program = FamilySockets::new(std::process::id(), HashMap::new());
        let stream = connect_http(&url, Instant::now() + Duration::from_secs(30)).unwrap().0;
        // The time for the probe is over by the time it is known which process has accepted the connection.
        let outcome = request(&url, stream, &program, Duration::from_secs(30), Instant::now()).unwrap();
        assert!(server.join().unwrap().starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"));
        outcome
    }

    #[test]
    fn an_answer_that_does_not_end_counts_by_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let streams = thread::spawn(move || {
            while server.write_all(b".").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let answer = exchange(client, b"GET / HTTP/1.1\r\n\r\n", Instant::now() + Duration::from_secs(1)).unwrap();
        assert_eq!(status_of(&answer), Some((200, "200 OK".into())));
        streams.join().unwrap();
    }

    #[test]
    fn only_a_status_of_2xx_is_an_answer() {
        for (answer, is_one) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], true),
            (b"HTTP/1.0 204 No Content\r\nA: b\r\n\r\n", true),
            (b"HTTP/1.1 200\r\n\r\n", true),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            (b"HTTP/1.1 302 Found\r\n\r\n", false),
            (b"SSH-2.0-OpenSSH\r\n", false),
            (b"", false),
        ] {
            let outcome = probed(answer);
            assert_eq!(matches!(outcome, Outcome::Answered(_)), is_one, "{outcome:?}");
        }
    }
}
