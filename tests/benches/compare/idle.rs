//! What it costs to wait: context switches of all threads in ten seconds in which nothing happens.

use std::time::Duration;

use crate::peers;
use crate::process::{Directory, Running, write};

const WAIT: Duration = Duration::from_secs(10);

pub fn run() {
    let directory = Directory::new("idle");
    write(&directory.0.join("index.html"), "hello");
    let path = directory.0.to_str().unwrap();
    let servers = [
        ("supervisor http", Some(Running::supervisor(&["http", path]))),
        ("nginx", peers::nginx(&directory.0, &directory.0)),
        ("lighttpd", peers::lighttpd(&directory.0, &directory.0)),
        ("python3 -m http.server", peers::python(&directory.0)),
    ];
    // Starting up is not waiting.
    std::thread::sleep(Duration::from_secs(1));
    let count = |running: &Option<Running>| running.as_ref().map(Running::context_switches);
    let before: Vec<_> = servers.iter().map(|(_, running)| count(running)).collect();
    std::thread::sleep(WAIT);
    for ((name, running), before) in servers.iter().zip(before) {
        match count(running).zip(before) {
            Some((after, before)) => println!("{name:<25} {:>6} context switches in {WAIT:?}", after - before),
            None => println!("{name:<25} not installed"),
        }
    }
}
