//! Echo round trips, beside a bare loop of std: a thread a connection, and nothing that could stop it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Running;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);

pub fn run() {
    let supervisor = Running::supervisor(&["echo"]);
    let bare = bare_loop();
    for clients in [1, 64] {
        // Alternating, so that both see the same noise.
        let mut rates: Vec<(f64, f64)> =
            (0..ROUNDS).map(|_| (round_trips(supervisor.address, clients), round_trips(bare, clients))).collect();
        rates.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
        let (ours, theirs) = rates[ROUNDS / 2];
        println!(
            "{clients:>3} clients: supervisor echo {ours:>8.0}/s, bare std loop {theirs:>8.0}/s, ratio {:.2}",
            ours / theirs
        );
    }
}

fn bare_loop() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            thread::spawn(move || {
                client.set_nodelay(true).unwrap();
                let mut message = [0; 8 * 1024];
                while let Ok(length @ 1..) = client.read(&mut message) {
                    if client.write_all(&message[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Round trips of 64 bytes a second.
fn round_trips(address: SocketAddr, clients: usize) -> f64 {
    let (done, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = TcpStream::connect(address).unwrap();
                client.set_nodelay(true).unwrap();
                let mut message = [7; 64];
                while !done.load(Ordering::Relaxed) {
                    client.write_all(&message).unwrap();
                    client.read_exact(&mut message).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(ROUND);
        done.store(true, Ordering::Relaxed);
    });
    count.into_inner() as f64 / began.elapsed().as_secs_f64()
}
