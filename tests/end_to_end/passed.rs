//! Sockets that a service manager passes, also for programs: any number of them, with their names.

use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use crate::exec::{file, sh};
use crate::manager::listener;
use crate::support::{Client, HUGE, Home, Instance, LIMIT, eventually, free_port};

/// Answers each client with the name of the socket that it connected to, and its own process id.
pub const SERVER: &str = r#"
import os, select, signal, socket
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"]) and os.environ["LISTEN_PID"] == str(os.getpid()), dict(os.environ)
if tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 9):
    assert os.environ["LISTEN_PIDFDID"] == str(os.fstat(os.pidfd_open(os.getpid())).st_ino), dict(os.environ)
listeners = {socket.socket(fileno=3 + number): name for number, name in enumerate(names)}
asleep, wake = socket.socketpair()
for each in [*listeners, wake]:
    each.setblocking(False)
signal.set_wakeup_fd(wake.fileno())
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not ending:
    for listener in select.select([asleep, *listeners], [], [])[0]:
        if listener is asleep:
            continue
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        client.sendall(f"{listeners[listener]} {os.getpid()}".encode())
        client.close()
"#;

/// This command with these sockets, passed as a service manager passes them.
pub fn passing(home: &Home, command: &Command, sockets: Vec<(&str, OwnedFd)>) -> Command {
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    let mut shell = by_shell(home, "", command, sockets.len());
    shell.env("LISTEN_FDNAMES", names.join(":"));
    let numbers = (3..).zip(sockets);
    let mappings = numbers.map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd });
    shell.fd_mappings(mappings.collect()).unwrap();
    shell
}

/// This command after another one of the shell's, with the variables by which a service manager passes this many
/// sockets.
fn by_shell(home: &Home, first: &str, command: &Command, sockets: impl ToString) -> Command {
    let mut shell = home.program("sh");
    shell.arg("-c").arg(format!("{first} LISTEN_PID=$$ exec \"$0\" \"$@\""));
    shell.arg(command.get_program()).args(command.get_args());
    shell.env("LISTEN_FDS", sockets.to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// The program's answer to a client: the name of the socket, and its process id.
pub fn said(mut client: impl Read) -> (String, String) {
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    let (name, pid) = said.split_once(' ').unwrap_or_else(|| panic!("the program said {said:?}"));
    (name.to_owned(), pid.to_owned())
}

pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

pub fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

#[test]
fn a_program_gets_all_sockets_that_were_passed_and_their_queues_outlive_the_supervisor() {
    let home = Home::new();
    let (first, second, path) = (listener(), listener(), home.directory().join("admin.sock"));
    let third = UnixListener::bind(&path).unwrap();
    let [one, two] = [&first, &second].map(|listener| listener.local_addr().unwrap());
    let (server, own) = (file(&home, "server.py", SERVER), format!("own=127.0.0.1:{}", free_port()));
    let options = ["--listen", &own, "--ready", "notify", "--grace", HUGE];
    let exec = home.exec_command(&options, &["python3", &server]);
    let start = || {
        let sockets = vec![
            ("web", first.try_clone().unwrap().into()),
            ("web", second.try_clone().unwrap().into()),
            ("admin", third.try_clone().unwrap().into()),
        ];
        home.exec_by(passing(&home, &exec, sockets))
    };
    let own: SocketAddr = own.trim_start_matches("own=").parse().unwrap();
    let serves = || {
        let (name, pid) = said(tcp(own));
        assert_eq!(name, "own");
        assert_eq!(said(tcp(one)), ("web".into(), pid.clone()));
        assert_eq!(said(tcp(two)), ("web".into(), pid.clone()));
        assert_eq!(said(unix(&path)), ("admin".into(), pid.clone()));
        pid
    };
    let instance = start();
    let log = instance.err.so_far();
    let listens = format!("listening on {one}, {two}, {} and {own} (pid {}, 3 of 4", path.display(), instance.pid);
    assert!(log.contains(&listens) && log.contains("sockets passed by the service manager"), "{log}");
    let old = serves();
    instance.admin(&["restart"]).expect(0);
    assert_ne!(serves(), old);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    // The sockets of the manager are left as they are, and clients wait there.
    let (waiting, other) = (tcp(two), unix(&path));
    let _next = start();
    assert_eq!((said(waiting).0, said(other).0), ("web".into(), "admin".into()));
    serves();
}

#[test]
fn a_relay_listens_on_the_socket_that_was_passed_and_its_queue_outlives_the_supervisor() {
    let home = Home::new();
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("name"), "it").unwrap();
    let listener = listener();
    let address = listener.local_addr().unwrap().to_string();
    let program =
        ["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", files.to_str().unwrap()];
    // The same address may also be given.
    for options in [&["--relay", "http", "--grace", HUGE][..], &["--relay", "tcp", "--listen", &address]] {
        let exec = home.exec_command(options, &program);
        let mut waiting = Client::connect(listener.local_addr().unwrap());
        waiting.send("GET /name HTTP/1.0\r\n\r\n");
        let instance = home.exec_by(passing(&home, &exec, vec![("front", listener.try_clone().unwrap().into())]));
        assert_eq!(instance.address, listener.local_addr().unwrap());
        instance.err.wait_for(", socket passed by the service manager)");
        assert_eq!(waiting.answer().body, b"it");
        drop(waiting);
        instance.admin(&["restart"]).expect(0);
        assert_eq!(instance.client().get("/name").body, b"it");
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
    }
}

/// The only line of a supervisor that does not start.
fn refusal(code: i32, home: &Home, command: Command) -> String {
    let ended = home.run(command).expect(code);
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    ended.err
}

#[test]
fn what_does_not_fit_to_the_settings_is_refused_with_the_reason() {
    let home = Home::new();
    let (first, second, path) = (listener(), listener(), home.directory().join("app.sock"));
    let third = UnixListener::bind(&path).unwrap();
    let [one, two] = [&first, &second].map(|listener| listener.local_addr().unwrap().to_string());
    let refused = |sockets: &[&dyn Fn() -> OwnedFd], options: &[&str], reason: &str| {
        let exec = home.exec_command(options, &["true"]);
        let sockets = sockets.iter().map(|socket| ("it", socket())).collect();
        let said = refusal(2, &home, passing(&home, &exec, sockets));
        assert!(said.contains(reason), "{said}\nis not about\n{reason}");
    };
    let first = || OwnedFd::from(first.try_clone().unwrap());
    let second = || OwnedFd::from(second.try_clone().unwrap());
    let third = || OwnedFd::from(third.try_clone().unwrap());
    let path = path.to_str().unwrap();
    refused(
        &[&first],
        &["--listen", &one],
        &format!("\"listen\" has {one}, and the service manager passes a socket on it"),
    );
    refused(&[&third], &["--listen", path], &format!("\"listen\" has {path}, and the service manager passes a socket"));
    refused(&[&first], &["--ready", &format!("connect={one}")], "the supervisor itself holds that socket");
    let other = format!("\"listen\" is {two}, but the service manager passed a socket on {one}");
    refused(&[&first], &["--relay", "tcp", "--listen", &two], &other);
    let several =
        format!("\"relay\" has one address, and the service manager passed several sockets ({one} and {two})");
    refused(&[&first, &second], &["--relay", "tcp"], &several);
    let unix = format!("\"relay\" has TCP clients only, and the service manager passed a Unix socket ({path})");
    refused(&[&third], &["--relay", "http"], &unix);
}

#[test]
fn what_is_no_listening_socket_is_refused_with_the_reason() {
    let home = Home::new();
    let listener = listener();
    let directory = home.directory();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let nothing = fs::File::open("/dev/null").unwrap();
    let which = "descriptor 4 (second), which the service manager passed, is";
    let datagrams = "a datagram socket; in a .socket unit write ListenStream=";
    for (socket, reason) in [
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), datagrams),
        (UnixDatagram::bind(directory.join("datagrams")).unwrap().into(), datagrams),
        (OwnedFd::from(connection), "a connection and no listening socket; in a .socket unit leave out Accept=yes"),
        (nothing.into(), "no TCP or Unix socket"),
    ] {
        let exec = home.exec_command(&[], &["true"]);
        let sockets = vec![("first", listener.try_clone().unwrap().into()), ("second", socket)];
        let said = refusal(1, &home, passing(&home, &exec, sockets));
        assert!(said.contains(&format!("{which} {reason}")), "{said}\nis not about\n{reason}");
    }
}

#[test]
fn what_is_said_of_sockets_and_makes_no_sense_is_refused_with_the_reason() {
    let home = Home::new();
    let exec = home.exec_command(&[], &["true"]);
    for (said, reason) in [
        ("many", "LISTEN_FDS is \"many\": it has to be the number of sockets"),
        ("-1", "LISTEN_FDS is \"-1\": it has to be the number of sockets"),
        ("1000000000", "LISTEN_FDS is \"1000000000\": it has to be the number of sockets"),
        ("1", "passed a socket (LISTEN_FDS=1), but descriptor 3 is not open"),
        ("2", "passed 2 sockets (LISTEN_FDS=2), but descriptor 3 is not open"),
    ] {
        let refused = refusal(1, &home, by_shell(&home, "exec 3<&- 4<&-;", &exec, said));
        assert!(refused.contains(reason), "{refused}\nis not about\n{reason}");
    }
    let mut command = passing(&home, &exec, vec![("one", listener().into())]);
    command.env("LISTEN_FDNAMES", "one:two");
    let refused = refusal(1, &home, command);
    assert!(refused.contains("LISTEN_FDNAMES has 2 names (one:two), and LISTEN_FDS is 1"), "{refused}");
}

/// The names that a program gets.
fn names(home: &Home, change: impl FnOnce(&mut Command)) -> String {
    let socket = listener();
    let address = socket.local_addr().unwrap();
    let script = "echo \"sockets [$LISTEN_FDS $LISTEN_FDNAMES]\"; exec sleep 600";
    let mut command = passing(home, &home.exec_command(&["--grace", HUGE], &sh(script)), vec![("it", socket.into())]);
    change(&mut command);
    let instance: Instance = home.exec_by(command);
    let said = instance.out.wait_for("sockets [").replace(&address.port().to_string(), "PORT");
    instance.admin(&["stop"]).expect(0);
    said
}

#[test]
fn a_socket_without_a_name_is_named_like_those_of_listen() {
    assert_eq!(names(&Home::new(), |command| _ = command.env_remove("LISTEN_FDNAMES")), "sockets [1 PORT]");
    assert_eq!(names(&Home::new(), |_| {}), "sockets [1 it]");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let mut release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.retain(|letter| letter.is_ascii_digit() || letter == '.');
    let numbers: Vec<u32> = release.split('.').filter_map(|number| number.parse().ok()).collect();
    // Processes have such a number only since this version.
    if (numbers[0], numbers[1]) >= (6, 9) {
        assert_eq!(names(&Home::new(), |command| _ = command.env("LISTEN_PIDFDID", "1")), "sockets [ ]");
    }
}

#[test]
fn a_name_of_the_abstract_kind_is_shown_as_systemd_writes_it() {
    use std::os::linux::net::SocketAddrExt;
    let home = Home::new();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(home.name()).unwrap();
    let socket = UnixListener::bind_addr(&address).unwrap();
    let exec = home.exec_command(&["--grace", HUGE], &["sleep", "600"]);
    let instance = home.exec_by(passing(&home, &exec, vec![("it", socket.into())]));
    let log = instance.err.so_far();
    assert!(log.contains(&format!("listening on @{} (pid", home.name())), "{log}");
    instance.admin(&["stop"]).expect(0);
}

/// One of our own servers, run as the program, has a place for only one socket.
#[test]
fn one_of_our_servers_under_exec_serves_on_the_socket_that_was_passed_to_the_outer_supervisor() -> io::Result<()> {
    let home = Home::new();
    let listener: TcpListener = listener();
    let program = [crate::support::SUPERVISOR, "echo", "--admin", "off", "--grace", HUGE];
    let exec = home.exec_command(&["--grace", HUGE], &program);
    let instance = home.exec_by(passing(&home, &exec, vec![("it", listener.try_clone()?.into())]));
    instance.client().greet();
    instance.admin(&["restart"]).expect(0);
    eventually("the next one serves", || instance.status()["generation"] == 2);
    instance.client().greet();
    Ok(())
}
