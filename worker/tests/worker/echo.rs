//! The handler `Echo`.

use std::io::{Read, Write};
use std::thread;

use mastercontrol_worker::handlers::Echo;
use proptest::prelude::*;

use crate::support::{HUGE, Running};

#[test]
fn echo_returns_exactly_what_it_got() {
    let server = Running::start(Echo);
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 0..6);
    proptest!(config, |(chunks in chunks)| {
        let mut client = server.client();
        let mut sender = client.0.try_clone().unwrap();
        let sent = chunks.concat();
        let received = thread::scope(|scope| {
            scope.spawn(move || {
                chunks.iter().for_each(|chunk| sender.write_all(chunk).unwrap());
                sender.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            client.0.read_to_end(&mut received).unwrap();
            received
        });
        prop_assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
    });
    server.stop(HUGE);
    server.join();
}
