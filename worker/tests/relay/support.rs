//! A relay under a watchdog, the programs behind it, and their clients.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::relay::{Forwarded, Options, Protocol, Relay, Upstream};
use mastercontrol_worker::{Event, Ids};
use rustix::net::{AddressFamily, SocketType};

use crate::watchdog::Watchdog;
pub use crate::watchdog::{HUGE, LIMIT, eventually};

/// How long a relay tries to reach a program that does not answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A time that is over soon.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

pub fn never() -> Instant {
    Instant::now() + HUGE
}

type Observer = dyn Fn(&Event<'_>) + Send + Sync;

pub struct Front {
    pub relay: Relay,
    events: Arc<Mutex<Vec<String>>>,
    _watchdog: Watchdog,
}

pub fn options(protocol: Protocol) -> Options {
    Options { protocol, max_connections: 1000, wait: HUGE, answer_within: None, ids: Ids::default() }
}

impl Front {
    pub fn tcp() -> Front {
        Front::start(options(Protocol::Tcp))
    }

    pub fn http() -> Front {
        Front::start(options(Protocol::Http(Forwarded::Off)))
    }

    pub fn start(options: Options) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Front::observed(|observer| Relay::start(listener, options, observer))
    }

    /// A relay that leaves the listener to others when it stops.
    pub fn sharing(listener: &TcpListener, protocol: Protocol) -> Front {
        let listener = listener.try_clone().unwrap();
        Front::observed(|observer| Relay::start_shared(listener, options(protocol), observer))
    }

    fn observed(start: impl FnOnce(Box<Observer>) -> io::Result<Relay>) -> Front {
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = events.clone();
        let relay = start(Box::new(move |event| log.lock().unwrap().push(format!("{event:?}"))));
        Front { relay: relay.unwrap(), events, _watchdog: Watchdog::start() }
    }

    /// A relay that passes bytes on to this program.
    pub fn before(program: &Program) -> (Front, Upstream) {
        let front = Front::tcp();
        let upstream = front.serve(program);
        (front, upstream)
    }

    pub fn serve(&self, program: &Program) -> Upstream {
        let upstream = self.relay.upstream(program.address);
        upstream.serve();
        upstream
    }

    pub fn client(&self) -> Client {
        Client::to(TcpStream::connect(self.relay.address()).unwrap())
    }

    pub fn said(&self, what: &str) -> usize {
        self.events.lock().unwrap().iter().filter(|event| event.starts_with(what)).count()
    }
}

/// As many clients of a relay as a test wants, or fewer. Each takes four descriptors: its own, two of the relay, and one
/// of the program.
pub fn crowd(wanted: usize) -> (usize, MutexGuard<'static, ()>) {
    crate::crowd::crowd(wanted, 4)
}

/// A program that knows nothing of the relay: one thread per connection. When it is dropped, it stops listening, and its
/// connections stay.
pub struct Program {
    pub address: SocketAddr,
    listener: TcpListener,
    connections: Arc<AtomicUsize>,
    errors: Arc<Mutex<Vec<io::Error>>>,
}

impl Program {
    pub fn start(serve: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + Clone + 'static) -> Program {
        Program::on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
    }

    pub fn on(
        listener: TcpListener,
        serve: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + Clone + 'static,
    ) -> Program {
        let address = listener.local_addr().unwrap();
        let program = Program {
            address,
            listener: listener.try_clone().unwrap(),
            connections: Arc::default(),
            errors: Arc::default(),
        };
        let (connections, errors) = (program.connections.clone(), program.errors.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                connections.fetch_add(1, Ordering::SeqCst);
                let (serve, errors) = (serve.clone(), errors.clone());
                thread::spawn(move || {
                    if let Err(error) = serve(&mut stream) {
                        errors.lock().unwrap().push(error);
                    }
                });
            }
        });
        program
    }

    /// A program that returns what it receives.
    pub fn echo() -> Program {
        Program::start(|stream| io::copy(&mut &*stream, &mut &*stream).map(drop))
    }

    /// A program that sends its name at once, and then returns what it receives.
    pub fn named(name: &'static str) -> Program {
        Program::start(move |stream| {
            stream.write_all(name.as_bytes())?;
            io::copy(&mut &*stream, &mut &*stream).map(drop)
        })
    }

    /// A program that keeps its connections alive, and answers with its name, the requested path and the body.
    pub fn http(name: &'static str) -> Program {
        Program::start(move |stream| {
            let mut reader = BufReader::new(&*stream);
            while let Some((head, body)) = read_request(&mut reader)? {
                let path = head.split(' ').nth(1).unwrap_or_default();
                let text = format!("{name} {path} {}", String::from_utf8_lossy(&body));
                write!(&*stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
            }
            Ok(())
        })
    }

    /// A program whose connections are served by the test itself.
    pub fn by_hand() -> (Program, Receiver<Client>) {
        let (give, take) = mpsc::channel();
        let program = Program::start(move |stream| {
            let _ = give.send(Client::to(stream.try_clone()?));
            Ok(())
        });
        (program, take)
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The errors of its connections.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap().iter().map(ToString::to_string).collect()
    }

    /// Stops listening. Its connections stay. Nothing else gets its port while the returned descriptor exists.
    pub fn close(self) -> OwnedFd {
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap();
        let reserved = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::sockopt::set_socket_reuseaddr(&reserved, true).unwrap();
        rustix::net::bind(&reserved, &self.address).unwrap();
        eventually("it does not listen", || TcpStream::connect(self.address).is_err());
        reserved
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // This wakes the thread that accepts, which then ends. It fails after `close`, which has done the same.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// A request as a program reads it: its head, and its body if it has a length. None: the client has closed.
pub fn read_request(reader: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return if head.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    Ok(Some((head, body)))
}

/// One end of a connection, with deadlines.
pub struct Client(pub TcpStream);

impl Client {
    pub fn to(stream: TcpStream) -> Client {
        Client(stream).with_limit()
    }

    fn with_limit(self) -> Client {
        self.0.set_read_timeout(Some(LIMIT)).unwrap();
        self.0.set_write_timeout(Some(LIMIT)).unwrap();
        self
    }

    pub fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    pub fn expect(&mut self, text: &str) {
        let mut received = vec![0; text.len()];
        self.0.read_exact(&mut received).unwrap();
        assert_eq!(String::from_utf8_lossy(&received), text);
    }

    /// The other side has closed regularly, and has sent nothing more than this.
    pub fn expect_last(&mut self, text: &str) {
        let mut received = Vec::new();
        self.0.read_to_end(&mut received).unwrap();
        assert_eq!(String::from_utf8_lossy(&received), text);
    }

    pub fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }

    /// The next answer: its head and its body, which has a length.
    pub fn answer(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let length = self.0.read(&mut byte).unwrap();
            assert_eq!(length, 1, "the connection ends after {:?}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    pub fn expect_answer(&mut self, body: &str) {
        let (head, received) = self.answer();
        assert_eq!(received, body, "{head}");
    }

    /// An answer of the relay itself, and the end of the connection.
    pub fn expect_refusal(&mut self, status: u16) {
        let (head, body) = self.answer();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        assert!(body.lines().count() == 1 && body.ends_with('\n'), "{body:?}");
        self.expect_last("");
    }

    pub fn expect_reset(&mut self) {
        let error = self.0.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    /// The connection has ended in one way or another.
    pub fn expect_end(&mut self) {
        match self.0.read(&mut [0]) {
            Ok(length) => assert_eq!(length, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }

    pub fn expect_silence(&mut self) {
        self.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(self.0.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        self.0.set_read_timeout(Some(LIMIT)).unwrap();
    }

    pub fn finish(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.0, Some(Duration::ZERO)).unwrap();
    }
}

/// Has a client send a request, which the program receives. Returns the program's end of the connection.
pub fn asks(client: &mut Client, connections: &Receiver<Client>) -> Client {
    client.get("/");
    let mut server = connections.recv().unwrap();
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server
}
