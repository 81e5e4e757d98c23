//! Many clients in few threads: a thread for each would take processor time from the measured servers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::rounds::percentile;

/// The protocol that a client and its server use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    Echo,
    /// Kept-alive requests for `/hello`.
    Http,
}

impl Talk {
    fn greet(self, stream: &mut TcpStream) {
        match self {
            Talk::Echo => {
                stream.write_all(b"x").unwrap();
                stream.read_exact(&mut [0]).unwrap();
            }
            Talk::Http => {
                stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                let mut answer = Vec::new();
                // The content of the file is a line that occurs nowhere else in the answer.
                while !answer.ends_with(GREETING) {
                    let mut part = [0; 4096];
                    let length = stream.read(&mut part).unwrap();
                    assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
                    answer.extend(&part[..length]);
                }
            }
        }
    }

    /// What an idle client receives before its connection ends.
    fn notice(self) -> &'static [u8] {
        match self {
            Talk::Echo => b"SHUTDOWN\n",
            Talk::Http => b"",
        }
    }
}

/// The content of the file that HTTP clients request.
pub const GREETING: &[u8] = b"hello, crowd\n";

/// Idle clients.
pub struct Crowd {
    streams: Vec<TcpStream>,
    talk: Talk,
}

impl Crowd {
    /// Connects the clients. Each has sent one message and received its answer.
    pub fn connect(address: SocketAddr, clients: usize, talk: Talk) -> Crowd {
        let greeted = |_| {
            let mut stream = TcpStream::connect(address).unwrap();
            talk.greet(&mut stream);
            stream
        };
        Crowd { streams: (0..clients).map(greeted).collect(), talk }
    }

    /// Each client sends another message and gets its answer on the same connection.
    pub fn greet_again(&mut self) {
        self.streams.iter_mut().for_each(|stream| self.talk.greet(stream));
    }

    /// Spawns a thread that closes each connection as soon as the server has ended its half. The thread ends when all
    /// are closed, each with the whole notice.
    pub fn leave_when_notified(self) -> JoinHandle<()> {
        let Crowd { streams, talk } = self;
        let epoll = watch(&streams);
        thread::spawn(move || {
            let mut remaining = streams.len();
            let mut clients: Vec<_> = streams.into_iter().map(|stream| Some((stream, Vec::<u8>::new()))).collect();
            let mut events = events();
            while remaining > 0 {
                for ready in wait(&epoll, &mut events, EpollTimeout::NONE) {
                    let Some((stream, heard)) = &mut clients[ready] else { continue };
                    let mut part = [0; 64];
                    match stream.read(&mut part) {
                        Ok(0) => {
                            assert_eq!(heard, talk.notice());
                            clients[ready] = None;
                            remaining -= 1;
                        }
                        Ok(length) => heard.extend(&part[..length]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => panic!("a connection did not end as promised: {error}"),
                    }
                }
            }
        })
    }
}

/// Round trips of an echo server: how many per second, and their times.
pub struct RoundTrips {
    pub rate: f64,
    pub median: Duration,
    pub worst_1_percent: Duration,
}

/// The time before anything is counted, in which a server gets its threads and its buffers.
const WARM_UP: Duration = Duration::from_millis(300);

/// Has each client send 64 bytes, wait for them, and send the next, for this time.
pub fn round_trips(address: SocketAddr, clients: usize, time: Duration) -> RoundTrips {
    // The other half of the processors is for the server.
    let threads = (thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, clients);
    let connected = Barrier::new(threads);
    let share = |number| clients / threads + usize::from(number < clients % threads);
    let ping = &|number| ping(address, share(number), &connected, time);
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|number| scope.spawn(move || ping(number))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    times.sort();
    RoundTrips {
        rate: times.len() as f64 / time.as_secs_f64(),
        median: percentile(&times, 50),
        worst_1_percent: percentile(&times, 99),
    }
}

/// The times of the round trips that ended within this time, which starts when all threads have connected and are warm.
fn ping(address: SocketAddr, clients: usize, connected: &Barrier, time: Duration) -> Vec<Duration> {
    const MESSAGE: [u8; 64] = [7; 64];
    struct Client {
        stream: TcpStream,
        received: usize,
        sent_at: Instant,
    }
    let streams: Vec<TcpStream> = (0..clients).map(|_| TcpStream::connect(address).unwrap()).collect();
    let epoll = watch(&streams);
    let mut clients: Vec<Client> =
        streams.into_iter().map(|stream| Client { stream, received: 0, sent_at: Instant::now() }).collect();
    connected.wait();
    let from = Instant::now() + WARM_UP;
    let to = from + time;
    for client in &mut clients {
        client.stream.set_nodelay(true).unwrap();
        client.sent_at = Instant::now();
        client.stream.write_all(&MESSAGE).unwrap();
    }
    let mut times = Vec::with_capacity(1 << 20);
    let mut events = events();
    while Instant::now() < to {
        for ready in wait(&epoll, &mut events, EpollTimeout::from(100u8)) {
            let client = &mut clients[ready];
            match client.stream.read(&mut [0; MESSAGE.len()][client.received..]) {
                Ok(0) => panic!("the server has closed a connection"),
                Ok(length) => client.received += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            if client.received == MESSAGE.len() {
                let now = Instant::now();
                if (from..to).contains(&now) {
                    times.push(now - client.sent_at);
                }
                client.received = 0;
                client.sent_at = now;
                // This little always fits into a send buffer whose content has been answered.
                client.stream.write_all(&MESSAGE).unwrap();
            }
        }
    }
    times
}

/// Makes all of these nonblocking and watches them, with their indices as data.
fn watch(streams: &[TcpStream]) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    for (place, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).unwrap();
        epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(place).unwrap())).unwrap();
    }
    epoll
}

fn events() -> Vec<EpollEvent> {
    vec![EpollEvent::empty(); 256]
}

/// The indices of the streams that are ready.
fn wait(epoll: &Epoll, events: &mut [EpollEvent], timeout: EpollTimeout) -> impl Iterator<Item = usize> {
    let ready = epoll.wait(events, timeout).unwrap();
    events[..ready].iter().map(|event| usize::try_from(event.data()).unwrap())
}
