//! A server under `supervisor exec` is replaced by a new build of itself, `examples/6-replace-yourself.rs`, while
//! clients are connected.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::exec::assert_nothing_runs;
use crate::support::{Client, HUGE, Home, Instance, LIMIT, eventually, free_port};

const BUILDS: [&str; 2] = [env!("CARGO_BIN_EXE_version-1"), env!("CARGO_BIN_EXE_version-2")];

/// How the builds identify themselves.
const VERSIONS: [&str; 2] = ["version_1 0.1.0", "version_2 0.1.0"];

/// Puts a build in the place of the last one, as an installation does, without changing the file that is running.
fn install(home: &Home, build: usize) -> String {
    let (new, path) = (home.directory().join("server.new"), home.directory().join("server"));
    // Copied by a separate process: a program that another test starts meanwhile has all files of this process open for
    // a moment, and a program that is open for writing cannot be run.
    let mut copy = home.program("cp");
    copy.arg(BUILDS[build]).arg(&new);
    home.run(copy).expect(0);
    fs::rename(new, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

fn start(home: &Home) -> Instance {
    let server = install(home, 0);
    let port = free_port().to_string();
    home.exec(&["--listen", &port, "--grace", HUGE, "--ready", "notify"], &[&server])
}

fn end(home: &Home, instance: &Instance) {
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(home);
    instance.assert_port_is_free();
}

#[track_caller]
fn assert_answers(client: &mut Client, version: &str) {
    client.send("hello\n");
    client.expect(&format!("{version}: hello\n"));
}

#[test]
fn connected_clients_finish_with_the_old_build_and_new_ones_get_the_new_one() {
    let home = Home::new();
    let instance = start(&home);
    let (mut idle, mut busy) = (instance.client(), instance.client());
    assert_answers(&mut idle, VERSIONS[0]);
    assert_answers(&mut busy, VERSIONS[0]);
    busy.send("hel");
    install(&home, 1);
    let restart = instance.admin_begins(&["restart"]);
    idle.expect("SHUTDOWN\n");
    // The old one keeps clients with a message in progress, and leaves the others to the new one.
    for _ in 0..20 {
        assert_answers(&mut instance.client(), VERSIONS[1]);
    }
    assert!(restart.is_running());
    busy.send("lo\n");
    busy.expect(&format!("{}: hello\nSHUTDOWN\n", VERSIONS[0]));
    assert_eq!((idle.rest(), busy.rest()), (String::new(), String::new()));
    drop((idle, busy));
    let restart = restart.end().expect(0);
    restart.says("generation 2 is ready: ").says("exited with code 0");
    assert_answers(&mut instance.client(), VERSIONS[1]);
    end(&home, &instance);
}

/// Sends a line, and returns the first line of the answer.
fn one_message(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"hello\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}

#[test]
fn nobody_is_refused_or_reset_while_builds_replace_one_another() {
    let home = Home::new();
    let instance = start(&home);
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let wrong = |answer: &io::Result<String>| match answer {
        // The old server notifies a client that connects in its last moment; the client reconnects.
        Ok(answer) => answer != "SHUTDOWN\n" && !VERSIONS.iter().any(|it| *answer == format!("{it}: hello\n")),
        Err(_) => true,
    };
    let comes_and_goes = || {
        while !done.load(Ordering::SeqCst) {
            let answer = one_message(instance.address);
            answered.fetch_add(1, Ordering::SeqCst);
            if wrong(&answer) {
                return Err(answer);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(comes_and_goes)).collect();
        let is_over = || clients.iter().any(|client| client.is_finished());
        let go_on = || {
            let next = answered.load(Ordering::SeqCst) + 50;
            eventually("clients come", || answered.load(Ordering::SeqCst) >= next || is_over());
        };
        let restarts = (1..=8).map(|restart| {
            go_on();
            install(&home, restart % 2);
            let restarted = instance.admin(&["restart"]);
            (restarted.code, one_message(instance.address).unwrap_or_else(|error| error.to_string()))
        });
        let restarts: Vec<_> = restarts.collect();
        go_on();
        done.store(true, Ordering::SeqCst);
        let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(clients.iter().all(Result::is_ok), "{clients:?}\n{}", instance.err.so_far());
        let wanted: Vec<_> = (1..=8).map(|restart| (0, format!("{}: hello\n", VERSIONS[restart % 2]))).collect();
        assert_eq!(restarts, wanted);
    });
    end(&home, &instance);
}
