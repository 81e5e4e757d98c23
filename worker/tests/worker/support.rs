//! A server under a watchdog, its clients, and handlers that tests can steer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use mastercontrol_worker::{
    Activity, Connection, ConnectionInfo, DrainReport, Event, Handle, Handler, Port, Server, Stopper,
};

pub use crate::watchdog::{HUGE, LIMIT, Watchdog, eventually};

/// As many clients of a server as a test wants, or fewer. Each takes two descriptors: its own and one of the
/// server.
pub fn crowd(wanted: usize) -> (usize, MutexGuard<'static, ()>) {
    crate::crowd::crowd(wanted, 2)
}

/// A server that runs on a port of its own.
pub struct Running {
    handle: Handle,
    stopper: Stopper,
    /// Where several servers serve the port: it is closed with the last one.
    port: Option<Port>,
    _watchdog: Watchdog,
}

impl Running {
    pub fn start(handler: impl Handler) -> Running {
        Running::of(Server::new(handler))
    }

    pub fn of(server: Server) -> Running {
        Running::on(TcpListener::bind("127.0.0.1:0").unwrap(), server)
    }

    pub fn on(listener: TcpListener, server: Server) -> Running {
        Running::from(server.start(listener).unwrap())
    }

    pub fn from(handle: Handle) -> Running {
        Running { stopper: handle.stopper(), handle, port: None, _watchdog: Watchdog::start() }
    }

    /// Has it keep the port that it serves.
    pub fn with(self, port: Port) -> Running {
        Running { port: Some(port), ..self }
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Clients that the server has accepted and now waits for.
    pub fn idle_clients(&self, number: usize) -> Vec<Client> {
        let before = self.number_of(Activity::Idle);
        let clients = (0..number).map(|_| self.client()).collect();
        self.wait_for(before + number, Activity::Idle);
        clients
    }

    /// Waits until this many connections do this.
    pub fn wait_for(&self, number: usize, activity: Activity) {
        eventually(&format!("{number} connections are {activity:?}"), || self.number_of(activity) == number);
    }

    /// Waits until the oldest connection works on a message of which this many bytes have arrived. (A connection counts
    /// as busy from its start, so that alone says little.)
    pub fn wait_for_message(&self, bytes: u64) {
        let first = |condition: &dyn Fn(&ConnectionInfo) -> bool| self.connections().first().is_some_and(condition);
        eventually("the message has arrived", || first(&|connection| connection.received >= bytes));
        eventually("it is worked on", || first(&|connection| connection.activity == Activity::Busy));
    }

    fn number_of(&self, activity: Activity) -> usize {
        self.connections().iter().filter(|connection| connection.activity == activity).count()
    }

    pub fn join(self) -> DrainReport {
        let report = self.handle.join().unwrap();
        drop(self.port);
        assert!(report.took < LIMIT, "the stop took {:?}", report.took);
        report
    }
}

impl std::ops::Deref for Running {
    type Target = Stopper;

    fn deref(&self) -> &Stopper {
        &self.stopper
    }
}

/// How a connection ended, as its client sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server closed it after these last words.
    Ended(String),
    /// It was reset before the end.
    Reset,
}

#[derive(Debug)]
pub struct Client(pub TcpStream);

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).unwrap()
    }

    pub fn try_connect(address: impl ToSocketAddrs) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Client(stream))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    pub fn half_close(&mut self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// The next bytes are these.
    pub fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let mut received = vec![0; expected.as_ref().len()];
        self.0.read_exact(&mut received).unwrap();
        assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(expected.as_ref()));
    }

    /// Everything up to the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }

    /// These are the last bytes, and then the server closes.
    pub fn expect_last(&mut self, expected: &str) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), expected);
    }

    pub fn fate(&mut self) -> Fate {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => Fate::Ended(String::from_utf8(rest).unwrap()),
            Err(error) => {
                assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "it never ended");
                Fate::Reset
            }
        }
    }
}

/// What the observer of a server has received, one line per event.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn observe(&self, server: Server) -> Server {
        let log = self.clone();
        server.observer(move |event| log.say(line(event)))
    }

    pub fn say(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }
}

fn line(event: &Event<'_>) -> String {
    match event {
        Event::Connected { id, .. } => format!("connected {id}"),
        Event::Ended { connection, outcome, error } => {
            let error = error.map_or(String::new(), |error| format!(": {error}"));
            format!("ended {} {outcome:?}{error}", connection.id)
        }
        Event::Refused { .. } => "refused".into(),
        Event::Panicked { id, message, .. } => format!("panicked {id}: {message}"),
        Event::Exhausted { .. } => "exhausted".into(),
        Event::Finished => format!("finished in thread {}", thread::current().name().unwrap_or("?")),
        other => format!("{other:?}"),
    }
}

/// Answers each byte with `.`, but not before the test says so.
pub struct Gated {
    gate: Mutex<Receiver<()>>,
    notice: Option<&'static [u8]>,
}

impl Gated {
    /// The gate lets one message through for each `()`, and all of them once the sender is dropped.
    pub fn new(notice: Option<&'static [u8]>) -> (Sender<()>, Gated) {
        let (open, gate) = mpsc::channel();
        (open, Gated { gate: Mutex::new(gate), notice })
    }
}

impl Handler for Gated {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            client.read_exact(&mut [0])?;
            let _ = self.gate.lock().unwrap().recv();
            client.write_all(b".")?;
        }
        Ok(())
    }

    fn notice(&self) -> Option<&[u8]> {
        self.notice
    }
}

/// A handler made of a closure, which is called as soon as a client has connected. Without a notice.
pub struct Greet<F>(pub F);

impl<F: Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static> Handler for Greet<F> {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        (self.0)(client)
    }

    fn speaks_first(&self) -> bool {
        true
    }
}

/// A handler made of a closure. Without a notice.
pub struct Serve<F>(pub F);

impl<F: Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static> Handler for Serve<F> {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        (self.0)(client)
    }
}

/// A handler made of a closure, with a notice.
pub struct ServeAndTell<F>(pub F);

impl<F: Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static> Handler for ServeAndTell<F> {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        (self.0)(client)
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }
}

/// Answers each byte with `first` while the server serves, and with `last` when it stops. No notice.
pub fn answering(first: u8, last: u8) -> impl Handler {
    Serve(move |client: &mut Connection| {
        while client.next_message() {
            client.read_exact(&mut [0])?;
            let answer = if client.is_draining() { last } else { first };
            client.write_all(&[answer])?;
        }
        Ok(())
    })
}

/// Sends more than the buffers of a connection hold. In pieces: Wine does not end the write of a large one whose client
/// goes before it blocks.
pub fn send_much(client: &mut Connection, byte: u8) -> io::Result<()> {
    (0..1024).try_for_each(|_| client.write_all(&[byte; 64 * 1024]))
}

/// Runs the body of a test in a process of its own, after these shell commands: limits apply to whole processes, and
/// other tests would interfere.
#[cfg(unix)]
pub fn in_a_process_of_its_own(test: &str, commands: &str, body: impl FnOnce()) {
    if std::env::var_os("WORKER_TEST_CHILD").is_some() {
        return body();
    }
    let output = child(test, commands).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{test} in a process of its own:\n{text}");
}

/// This test binary again, for one test.
#[cfg(unix)]
pub fn child(test: &str, commands: &str) -> std::process::Command {
    let mut child = std::process::Command::new("sh");
    child
        .arg("-c")
        .arg(format!("{commands}\nexec \"$0\" --exact {test} --nocapture --test-threads 1"))
        .arg(std::env::current_exe().unwrap())
        .env("WORKER_TEST_CHILD", "1");
    child
}
