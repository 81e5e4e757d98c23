//! Listeners that a service manager keeps for the next supervisor, with a small manager that does what systemd does.

use std::fs;
use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use nix::sys::signal::Signal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::exec::file;
use crate::manager::{Manager, fill};
use crate::passed::{SERVER, passing, said, tcp, unix};
use crate::support::{Client, HUGE, Home, Instance, Process, SUPERVISOR, eventually, free_port};

/// The descriptors that it keeps, by name.
type Kept = Arc<Mutex<Vec<(String, OwnedFd)>>>;

/// A service manager that keeps up to this many descriptors.
struct Keeper<'a> {
    home: &'a Home,
    places: usize,
    kept: Kept,
}

impl<'a> Keeper<'a> {
    fn new(home: &'a Home, places: usize) -> Keeper<'a> {
        let kept = Kept::default();
        let (socket, store) = (Manager::new(home).0, kept.clone());
        socket.set_read_timeout(None).unwrap();
        // It ends with the process of the tests.
        thread::spawn(move || {
            loop {
                let (message, descriptors) = receive(&socket);
                let lines: Vec<_> = message.lines().collect();
                let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored").to_owned();
                let mut store = store.lock().unwrap();
                if lines.contains(&"FDSTORE=1") {
                    assert!(lines.contains(&"FDPOLL=0") && descriptors.len() == 1, "{message}");
                    store.extend(descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
                    assert!(store.len() <= places, "there are {} descriptors", store.len());
                } else if lines.contains(&"FDSTOREREMOVE=1") {
                    store.retain(|(other, _)| *other != name);
                }
            }
        });
        Keeper { home, places, kept }
    }

    /// This command, as the manager starts it: with everything that it keeps.
    fn command(&self, command: &Command) -> Command {
        let kept = self.kept();
        let sockets = kept.iter().map(|(name, socket)| (name.as_str(), socket.try_clone().unwrap())).collect();
        let mut command = passing(self.home, command, sockets);
        command.env("NOTIFY_SOCKET", Manager::place(self.home)).env("FDSTORE", self.places.to_string());
        command
    }

    fn start(&self, command: &Command) -> Instance {
        self.home.exec_by(self.command(command))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.kept.lock().unwrap()
    }

    fn wait_until_it_keeps(&self, number: usize) {
        eventually("it keeps so many", || self.kept().len() == number);
    }
}

/// The next message, with the descriptors that it passes.
fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut passed = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(&mut text)];
    let length = recvmsg(socket, &mut pieces, &mut passed, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let rights = passed.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    (String::from_utf8(text[..length].to_vec()).unwrap(), descriptors)
}

/// Connects this many clients to a port, says so, and then counts how many of them get an answer.
const CLIENTS: &str = r#"
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
clients = []
for _ in range(min(3000, hard - 50) if hard > 0 else 3000):
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 100)
    client.sendall(sys.argv[2].encode().replace(b"|", b"\r\n"))
    clients.append(client)
print(f"{len(clients)} wait", flush=True)
served = sum(client.recv(1000) != b"" for client in clients)
print(f"{served} of {len(clients)} were served", flush=True)
"#;

/// A crowd of clients in a process of its own.
struct Crowd(Process);

impl Crowd {
    /// Clients that have connected and sent this.
    fn waiting(home: &Home, address: SocketAddr, text: &str) -> Crowd {
        let mut command = home.program("python3");
        command.args([&file(home, "clients.py", CLIENTS), &address.port().to_string(), text]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = home.spawn(command);
        process.out.wait_for(" wait");
        Crowd(process)
    }

    #[track_caller]
    fn assert_are_served(self) {
        let ended = self.0.end().expect(0);
        let said = ended.out.lines().last().unwrap();
        let (served, all) = said.trim_end_matches(" were served").split_once(" of ").unwrap();
        assert_eq!(served, all, "{ended}");
    }
}

/// The address of a port that nothing uses.
fn address() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

fn kill(home: &Home, instance: Instance) {
    instance.kill();
    eventually("all are gone", || home.processes().iter().all(|(_, line)| line.contains("clients.py")));
}

#[test]
fn clients_that_wait_for_a_program_survive_kill_9_of_the_supervisor_and_a_stop() {
    let home = Home::new();
    let keeper = Keeper::new(&home, 3);
    let (one, two, path) = (address(), address(), home.directory().join("app.sock"));
    let [first, second] = [one, two].map(|address| address.to_string());
    let options = ["--listen", &first, "--listen", &second, "--listen", path.to_str().unwrap(), "--grace", HUGE];
    // It accepts nothing.
    let idle = home.exec_command(&options, &["sleep", "600"]);
    let server = file(&home, "server.py", SERVER);
    let serves = home.exec_command(&[&options[..], &["--ready", "notify"]].concat(), &["python3", &server]);
    let instance = keeper.start(&idle);
    keeper.wait_until_it_keeps(3);
    let crowd = Crowd::waiting(&home, one, "");
    let (of_second, of_path) = (tcp(two), unix(&path));
    kill(&home, instance);
    // Still there, for a third one, which is not to be lost by a stop either.
    let instance = keeper.start(&idle);
    instance.err.wait_for(", sockets kept by the service manager)");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    let next = unix(&path);
    let instance = keeper.start(&serves);
    crowd.assert_are_served();
    assert_eq!(said(of_second).0, two.port().to_string());
    assert_eq!((said(of_path).0, said(next).0), (path.display().to_string(), path.display().to_string()));
    // It was asked once for each.
    assert_eq!(keeper.kept().len(), 3);
    instance.admin(&["stop"]).expect(0);
}

#[test]
fn clients_that_wait_for_a_server_of_ours_survive_kill_9_of_the_supervisor() {
    let home = Home::new();
    let keeper = Keeper::new(&home, 1);
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("name"), "it").unwrap();
    let command = home.supervisor(&["http", files.to_str().unwrap(), "--listen", "127.0.0.1:0", "--grace", HUGE]);
    let start = |command: &Command| home.start_by(keeper.command(command));
    let instance = start(&command);
    keeper.wait_until_it_keeps(1);
    let address = instance.address;
    instance.signal(Signal::SIGSTOP);
    let crowd = Crowd::waiting(&home, address, "GET /name HTTP/1.1|Host: x|Connection: close||");
    kill(&home, instance);
    // It accepts any port, and so also this one.
    let instance = start(&command);
    assert_eq!(instance.address, address);
    instance.err.wait_for(", socket kept by the service manager)");
    crowd.assert_are_served();
    // A stop also leaves the queue to the next one.
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    let mut waiting = Client::connect(address);
    let instance = start(&command);
    assert_eq!(waiting.get("/name").body, b"it");
    instance.admin(&["restart"]).expect(0);
    assert_eq!(instance.client().get("/name").body, b"it");
}

#[test]
fn the_port_of_a_relay_is_kept() {
    let home = Home::new();
    let keeper = Keeper::new(&home, 1);
    let front = address();
    let program = [SUPERVISOR, "echo", "--admin", "off", "--listen", "{port}", "--grace", HUGE];
    let command = home.exec_command(&["--listen", &front.to_string(), "--relay", "tcp", "--grace", HUGE], &program);
    let instance = keeper.start(&command);
    keeper.wait_until_it_keeps(1);
    kill(&home, instance);
    let mut waiting = Client::connect(front);
    let instance = keeper.start(&command);
    instance.err.wait_for(", socket kept by the service manager)");
    waiting.greet();
}

#[test]
fn what_is_not_configured_any_more_is_closed_and_forgotten() {
    let home = Home::new();
    let keeper = Keeper::new(&home, 3);
    let (all, path) = (format!("0.0.0.0:{}", free_port()), home.directory().join("app.sock"));
    let path = path.to_str().unwrap();
    let exec = |listen: &[&str]| {
        let options: Vec<_> =
            listen.iter().flat_map(|address| ["--listen", address]).chain(["--grace", HUGE]).collect();
        keeper.start(&home.exec_command(&options, &["sleep", "600"]))
    };
    let instance = exec(&[&all, path]);
    keeper.wait_until_it_keeps(2);
    kill(&home, instance);
    // The same port, on one address: it is free only when the manager has closed the other socket.
    let one = all.replace("0.0.0.0", "127.0.0.1");
    let instance = exec(&[&one]);
    for address in [all.as_str(), path] {
        let line = "closed a listener that the service manager had kept: \"listen\" does not name";
        instance.err.wait_for(&format!("{line} {address}"));
    }
    keeper.wait_until_it_keeps(1);
    let error = UnixStream::connect(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "nothing listens there, and its file is there");
    kill(&home, instance);
    let instance = exec(&[&one]);
    instance.err.wait_for(", socket kept by the service manager)");
    instance.admin(&["stop"]).expect(0);
}

#[test]
fn a_unix_socket_whose_path_leads_elsewhere_by_now_is_replaced() {
    let home = Home::new();
    let keeper = Keeper::new(&home, 1);
    let path = home.directory().join("app.sock");
    let command = home.exec_command(&["--listen", path.to_str().unwrap(), "--grace", HUGE], &["sleep", "600"]);
    let instance = keeper.start(&command);
    keeper.wait_until_it_keeps(1);
    kill(&home, instance);
    fs::remove_file(&path).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let instance = keeper.start(&command);
    instance.err.wait_for(&format!("had kept: {} leads elsewhere by now", path.display()));
    let _client = unix(&path);
    eventually("it keeps the one that clients find", || {
        let listeners: Vec<_> = keeper.kept().iter().map(|(_, socket)| socket.try_clone().unwrap()).collect();
        let listeners: Vec<_> = listeners.into_iter().map(UnixListener::from).collect();
        listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        listeners.len() == 1 && listeners[0].accept().is_ok()
    });
    instance.admin(&["stop"]).expect(0);
}

#[test]
fn what_was_kept_and_is_no_listening_socket_is_forgotten() {
    let home = Home::new();
    let keeper = Keeper::new(&home, 1);
    let name = "mastercontrol-listener-tcp-127.0.0.1_1";
    keeper.kept().push((name.into(), fs::File::open("/dev/null").unwrap().into()));
    let instance = keeper.start(&home.exec_command(&["--grace", HUGE], &["sleep", "600"]));
    instance.err.wait_for(&format!("had kept: {name} is no listening socket"));
    keeper.wait_until_it_keeps(0);
}

#[test]
fn a_store_with_too_few_places_is_named_and_a_manager_without_one_is_asked_for_nothing() {
    let home = Home::new();
    let path = home.directory().join("app.sock");
    for places in [1, 0] {
        let options = ["--listen", &address().to_string(), "--listen", path.to_str().unwrap(), "--grace", HUGE];
        let command = home.exec_command(&options, &["sleep", "600"]);
        let keeper = Keeper::new(&home, places);
        let instance = keeper.start(&command);
        if places == 1 {
            instance.err.wait_for("keeps no more than 1 of the listeners");
        }
        keeper.wait_until_it_keeps(places);
        instance.admin(&["stop"]).expect(0);
        assert_eq!((keeper.kept().len(), path.exists()), (places, false));
        fs::remove_file(Manager::place(&home)).unwrap();
    }
}

#[test]
fn a_start_that_fails_leaves_no_file_of_a_socket_that_was_to_be_kept() {
    let home = Home::new();
    let keeper = Keeper::new(&home, 2);
    let path = home.directory().join("app.sock");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let command = home.exec_command(&["--listen", path.to_str().unwrap(), "--listen", &taken], &["sleep", "600"]);
    home.run(keeper.command(&command)).expect(1).says("is taken by");
    assert!(!path.exists() && keeper.kept().is_empty());
}

#[test]
fn a_manager_that_reads_nothing_keeps_nothing_until_it_reads_again_and_holds_up_nothing() {
    let home = Home::new();
    let manager = Manager::new(&home);
    fill(&Manager::place(&home));
    let mut command = home.supervisor(&["echo", "--grace", HUGE]);
    command.env("NOTIFY_SOCKET", Manager::place(&home)).env("FDSTORE", "1");
    let instance = home.start_by(command);
    instance.client().greet();
    instance.admin(&["restart"]).expect(0);
    let mut received = std::iter::repeat_with(|| receive(&manager.0));
    let (message, descriptors) = received.find(|(message, _)| message != "STATUS=full").unwrap();
    assert!(message.starts_with("FDSTORE=1\nFDPOLL=0\nFDNAME="), "{message}");
    assert_eq!(descriptors.len(), 1);
    assert_eq!(TcpListener::from(descriptors.into_iter().next().unwrap()).local_addr().unwrap(), instance.address);
}
