//! What waiting costs: context switches of all threads in ten seconds in which nothing happens, with each server's
//! default timeouts.

use std::time::Duration;

use crate::clients::{Crowd, Talk};
use crate::peers;
use crate::process::{Directory, Running};
use crate::rounds::ROUNDS;

const WAIT: Duration = Duration::from_secs(10);

pub fn run() {
    let directory = Directory::new("idle");
    let (files, www) = directory.files();
    for clients in [0, 1_000] {
        println!("{clients} idle clients, context switches in {WAIT:?}");
        let servers = [
            ("supervisor http", Some(Running::supervisor(&["http", &www])), Talk::Http),
            ("supervisor echo", Some(Running::supervisor(&["echo"])), Talk::Echo),
            ("nginx", peers::nginx(&directory.0, &files), Talk::Http),
            ("lighttpd", peers::lighttpd(&directory.0, &files), Talk::Http),
            ("tokio", peers::tokio(), Talk::Echo),
        ];
        let mut rounds: Vec<Vec<u64>> = vec![Vec::new(); servers.len()];
        for _ in 0..ROUNDS {
            let connect = |(_, running, talk): &(_, Option<Running>, _)| {
                running.as_ref().map(|running| Crowd::connect(running.address, clients, *talk))
            };
            let crowds: Vec<_> = servers.iter().map(connect).collect();
            // Startup and new clients are not to be counted.
            std::thread::sleep(Duration::from_secs(1));
            let count = |running: &Option<Running>| running.as_ref().map(Running::context_switches);
            let before: Vec<_> = servers.iter().map(|(_, running, _)| count(running)).collect();
            // All at the same time: they do not disturb each other, because they only wait.
            std::thread::sleep(WAIT);
            for (((_, running, _), before), switches) in servers.iter().zip(before).zip(&mut rounds) {
                switches.extend(count(running).zip(before).map(|(after, before)| after - before));
            }
            drop(crowds);
        }
        for ((name, ..), mut switches) in servers.iter().zip(rounds) {
            switches.sort();
            match switches.as_slice() {
                [] => println!("  {name:<24} not installed"),
                [.., most] => println!("  {name:<24} median {:>5}   most {most:>5}", switches[switches.len() / 2]),
            }
        }
    }
}
