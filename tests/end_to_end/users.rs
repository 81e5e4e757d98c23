//! Another user's commands. Only root can be two users at once, so these tests need it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::geteuid;

use crate::support::{ADMIN_CLI, HUGE, Home, SUPERVISOR};

/// The user `nobody`, on most systems.
const OTHER: u32 = 65534;

/// Runs what follows as another user.
const AS_OTHER: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// A folder that everybody can enter, with the programs in it: those that were built may be where only root gets to.
struct Lobby {
    home: Home,
    folder: PathBuf,
}

impl Lobby {
    fn open() -> Option<Lobby> {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can act as another user");
            return None;
        }
        if Command::new("setpriv").arg("--version").output().is_err() {
            eprintln!("skipped: setpriv is not installed");
            return None;
        }
        let home = Home::new();
        let folder = home.folder().to_owned();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(SUPERVISOR, folder.join("supervisor")).unwrap();
        fs::copy(ADMIN_CLI, folder.join("admin-cli")).unwrap();
        Some(Lobby { home, folder })
    }

    /// One of the programs, run by the other user.
    fn as_other(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.home.program(AS_OTHER[0]);
        command.args(&AS_OTHER[1..]).arg(self.folder.join(program)).args(arguments);
        command
    }
}

#[test]
fn another_user_does_not_get_to_the_socket() {
    let Some(lobby) = Lobby::open() else { return };
    let instance = lobby.home.start(&["echo"]);
    for command in ["ping", "stop"] {
        let name = ["--name", lobby.home.name(), command];
        lobby.home.run(lobby.as_other("admin-cli", &name)).expect(4).says("not permitted");
        let socket = ["--socket", lobby.home.socket().to_str().unwrap(), command, "--json"].map(str::to_owned);
        let socket: Vec<&str> = socket.iter().map(String::as_str).collect();
        let answer = lobby.home.run(lobby.as_other("admin-cli", &socket)).expect(4).json();
        assert_eq!(answer["code"], "not_permitted");
    }
    instance.assert_serves();
}

#[test]
fn another_user_who_gets_to_the_socket_is_refused_and_logged() {
    let Some(lobby) = Lobby::open() else { return };
    let instance = lobby.home.start(&["echo", "--grace", HUGE]);
    // Somebody has opened the doors.
    fs::set_permissions(lobby.home.sockets(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(lobby.home.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    for command in ["ping", "stop"] {
        let name = ["--name", lobby.home.name(), command];
        lobby.home.run(lobby.as_other("admin-cli", &name)).expect(4).says(&format!("user {OTHER} may not command"));
    }
    instance.err.wait_for(&format!("warning: admin socket: user {OTHER} may not command"));
    instance.assert_serves();
}

#[test]
fn root_may_command_the_supervisor_of_another_user() {
    let Some(lobby) = Lobby::open() else { return };
    chown(&lobby.folder, Some(OTHER), Some(OTHER)).unwrap();
    let program = lobby.folder.join("supervisor").display().to_string();
    let by: Vec<&str> = AS_OTHER.iter().copied().chain([program.as_str()]).collect();
    let mut command = lobby.home.program(by[0]);
    let port = crate::support::free_port().to_string();
    command.args(&by[1..]).args(["echo", "--name", lobby.home.name(), "--listen", &port]);
    let instance = lobby.home.start_by(command);
    instance.admin(&["ping"]).expect(0);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert!(instance.log().contains("admin client (user 0, pid "), "{}", instance.log());
}

#[test]
fn a_port_that_needs_a_privilege_is_exit_code_4() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or("1024".into());
    if first.trim().parse::<u16>().unwrap() <= 80 {
        return eprintln!("skipped: here port 80 needs no privilege");
    }
    let Some(lobby) = Lobby::open() else { return };
    chown(&lobby.folder, Some(OTHER), Some(OTHER)).unwrap();
    let name = lobby.home.name();
    let refused = lobby.as_other("supervisor", &["echo", "--listen", "80", "--name", name]);
    let ended = lobby.home.run(refused).expect(4);
    ended.says("no permission to listen on port 80");
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    let left: Vec<_> = fs::read_dir(lobby.home.sockets()).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?} is left behind");
}

#[test]
fn a_folder_of_somebody_else_is_not_used() {
    let Some(lobby) = Lobby::open() else { return };
    let folder = lobby.home.sockets();
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&folder, Some(OTHER), Some(OTHER)).unwrap();
    let ended = lobby.home.run(lobby.home.supervisor(&["echo", "--admin", "require"])).expect(4);
    ended.says(&format!("belongs to user {OTHER}"));
}
