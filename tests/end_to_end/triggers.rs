//! Every trigger, with every kind of client.

use std::io::{ErrorKind, Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

#[cfg(unix)]
use nix::sys::signal::Signal;

#[cfg(unix)]
use crate::pty::{CTRL_C, ENTER, Pty};
use crate::support::{Client, HUGE, Home, Instance, Process, crowd, eventually};

/// The source of the request to stop.
#[derive(Debug, Clone, Copy)]
enum Trigger {
    #[cfg(unix)]
    EnterOnTerminal,
    EnterThroughPipe,
    #[cfg(unix)]
    CtrlC,
    #[cfg(unix)]
    Signal(Signal),
    AdminCli,
}

use Trigger::{AdminCli, EnterThroughPipe};
#[cfg(unix)]
use Trigger::{CtrlC, EnterOnTerminal};

/// A supervisor that this trigger can stop.
struct Stage {
    trigger: Trigger,
    instance: Instance,
    #[cfg(unix)]
    pty: Option<Pty>,
}

impl Stage {
    fn set(trigger: Trigger, arguments: &[&str]) -> Stage {
        let home = Home::new();
        #[cfg(unix)]
        if let EnterOnTerminal | CtrlC = trigger {
            let (instance, pty) = home.start_on_terminal(arguments);
            return Stage { trigger, instance, pty: Some(pty) };
        }
        let mut command = home.supervisor(arguments);
        if let EnterThroughPipe = trigger {
            command.args(["--console", "stdin"]).stdin(Stdio::piped());
        }
        let instance = home.start_by(command);
        Stage {
            trigger,
            instance,
            #[cfg(unix)]
            pty: None,
        }
    }

    /// Pulls the trigger, and waits until the stop has begun.
    fn stop(&self) -> Option<Process> {
        let admin = self.pull();
        self.instance.err.wait_for(&format!("{}: stopping", self.name_in_log(admin.as_ref())));
        admin
    }

    /// Pulls the trigger. Returns the admin client, which waits for the end of the stop.
    fn pull(&self) -> Option<Process> {
        match self.trigger {
            #[cfg(unix)]
            EnterOnTerminal => self.pty.as_ref().unwrap().press(ENTER),
            #[cfg(unix)]
            CtrlC => self.pty.as_ref().unwrap().press(CTRL_C),
            EnterThroughPipe => self.instance.write("\n"),
            #[cfg(unix)]
            Trigger::Signal(signal) => self.instance.signal(signal),
            AdminCli => return Some(self.instance.admin_begins(&["stop"])),
        }
        None
    }

    fn name_in_log(&self, admin: Option<&Process>) -> String {
        match self.trigger {
            #[cfg(unix)]
            EnterOnTerminal => "Enter".into(),
            EnterThroughPipe => "Enter".into(),
            // The terminal sent it, and that is not a process.
            #[cfg(unix)]
            CtrlC => "SIGINT".into(),
            #[cfg(unix)]
            Trigger::Signal(signal) => format!("{signal} (from pid {})", std::process::id()),
            #[cfg(unix)]
            AdminCli => format!("(user {}, pid {})", nix::unistd::geteuid(), admin.unwrap().pid),
            #[cfg(windows)]
            AdminCli => format!("(pid {})", admin.unwrap().pid),
        }
    }

    /// Asserts that the process ends with this code, logs this, and leaves nothing behind.
    fn ends(&self, admin: Option<&Process>, code: i32, summary: &str) {
        assert_eq!(self.instance.wait(), code, "{}", self.instance.log());
        self.instance.assert_port_is_free();
        let log = self.instance.log();
        assert!(log.contains(&format!("{}: stopping", self.name_in_log(admin))), "{log}");
        assert!(log.lines().last().unwrap().contains(summary), "not {summary:?}:\n{log}");
        if let Some(admin) = admin {
            admin.end().expect(code).says(summary);
        }
    }
}

fn no_client(trigger: Trigger) {
    let stage = Stage::set(trigger, &["echo", "--grace", HUGE]);
    let admin = stage.stop();
    stage.ends(admin.as_ref(), 0, "stopped in ");
}

fn idle_client(trigger: Trigger) {
    let stage = Stage::set(trigger, &["echo", "--grace", HUGE]);
    let mut client = stage.instance.client();
    client.greet();
    let admin = stage.stop();
    client.assert_told();
    drop(client);
    stage.ends(admin.as_ref(), 0, "1 notified, 1 disconnected, 0 closed, 0 forced");
}

fn idle_client_that_stays(trigger: Trigger) {
    let stage = Stage::set(trigger, &["echo", "--grace", "0.3"]);
    let mut client = stage.instance.client();
    client.greet();
    let admin = stage.stop();
    client.assert_told();
    stage.ends(admin.as_ref(), 5, "1 notified, 0 disconnected, 0 closed, 1 forced");
}

/// A client in the middle of a line, as the server knows.
fn busy_client(stage: &Stage) -> Client {
    let mut client = stage.instance.client();
    client.send("SO");
    eventually("the server waits for the rest of the line", || {
        let connections = stage.instance.admin(&["connections", "--json"]).expect(0).json()["connections"].clone();
        connections[0]["received"] == 2 && connections[0]["activity"] == "busy"
    });
    client
}

fn busy_client_that_ends_its_line(trigger: Trigger) {
    let stage = Stage::set(trigger, &["command", "--grace", HUGE]);
    let mut client = busy_client(&stage);
    let admin = stage.stop();
    let drain = stage.instance.status()["drain"].clone();
    assert_eq!(drain["connections"][0]["activity"], "busy", "{drain}");
    client.send("NG\n");
    let rest = client.rest();
    assert!(rest.starts_with("Row the packet"), "no answer to the line: {rest:?}");
    assert!(rest.ends_with("row another one today.\nSHUTDOWN\n"), "{rest:?}");
    assert_eq!(rest.matches("SHUTDOWN").count(), 1, "{rest:?}");
    drop(client);
    stage.ends(admin.as_ref(), 0, "1 notified, 1 disconnected, 0 closed, 0 forced");
}

fn busy_client_that_does_not(trigger: Trigger) {
    let stage = Stage::set(trigger, &["command", "--grace", "0.3"]);
    let mut client = busy_client(&stage);
    let admin = stage.stop();
    stage.ends(admin.as_ref(), 5, "0 notified, 0 disconnected, 0 closed, 1 forced");
    let log = stage.instance.log();
    assert!(log.contains("in the middle of a message"), "{log}");
    assert!(!client.try_rest().unwrap_or_default().contains("SHUTDOWN"), "told in the middle of a line");
}

fn client_that_never_reads(trigger: Trigger) {
    let stage = Stage::set(trigger, &["echo", "--grace", "0.3"]);
    let mut client = stage.instance.client();
    client.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let part = vec![b'x'; 64 * 1024];
    let full = loop {
        if let Err(error) = client.0.write_all(&part) {
            break error;
        }
    };
    assert!(matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{full}");
    let admin = stage.stop();
    stage.ends(admin.as_ref(), 5, "1 forced");
}

/// A client that is connected when the stop begins is notified, even if it has not been accepted yet. A later one is
/// notified, too, or refused.
fn clients_that_connect_in_that_instant(trigger: Trigger) {
    let stage = Stage::set(trigger, &["echo", "--grace", HUGE]);
    let address = stage.instance.address;
    let gone = AtomicBool::new(false);
    let (admin, early, late) = thread::scope(|scope| {
        let late = scope.spawn(|| {
            let mut clients = Vec::new();
            while !gone.load(Ordering::SeqCst) && clients.len() < crowd(2000) {
                match Client::try_connect(address) {
                    Ok(client) => clients.push(client),
                    Err(_) => break,
                }
            }
            clients
        });
        let early: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
        let admin = stage.stop();
        gone.store(true, Ordering::SeqCst);
        (admin, early, late.join().unwrap())
    });
    for mut client in early {
        client.assert_told();
    }
    for mut client in late {
        let mut rest = Vec::new();
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut end = client.0.read_to_end(&mut rest);
        if end.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)) {
            // Linux can forget a connection that is made at the very moment at which the listener is closed. Its client
            // learns of that when it sends something.
            client.send("x");
            end = client.0.read_to_end(&mut rest);
        }
        match end {
            Ok(_) => assert_eq!(rest, b"SHUTDOWN\n"),
            // It arrived after the last look at the queue.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        let _ = client.0.flush();
    }
    stage.ends(admin.as_ref(), 0, "0 forced");
}

macro_rules! with_every_client {
    ($($name:ident: $trigger:expr;)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn stops_an_idle_server_at_once() {
                no_client($trigger);
            }

            #[test]
            fn tells_an_idle_client_and_ends_when_it_has_left() {
                idle_client($trigger);
            }

            #[test]
            fn closes_a_client_that_stays_by_force() {
                idle_client_that_stays($trigger);
            }

            #[test]
            fn lets_a_busy_client_end_its_line_and_then_tells_it() {
                busy_client_that_ends_its_line($trigger);
            }

            #[test]
            fn closes_a_busy_client_by_force_and_says_why() {
                busy_client_that_does_not($trigger);
            }

            #[test]
            fn is_not_held_up_by_a_client_that_never_reads() {
                client_that_never_reads($trigger);
            }

            #[test]
            fn tells_clients_that_connect_in_that_instant() {
                clients_that_connect_in_that_instant($trigger);
            }
        }
    )* };
}

with_every_client! {
    enter_through_a_pipe: EnterThroughPipe;
    admin_cli: AdminCli;
}

#[cfg(unix)]
with_every_client! {
    enter_on_a_terminal: EnterOnTerminal;
    ctrl_c: CtrlC;
    sighup: Trigger::Signal(Signal::SIGHUP);
    sigint: Trigger::Signal(Signal::SIGINT);
    sigterm: Trigger::Signal(Signal::SIGTERM);
    sigquit: Trigger::Signal(Signal::SIGQUIT);
}
