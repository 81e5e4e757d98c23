//! What can prevent a start, and how it is reported: one line, and an exit code.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

use crate::support::{Ended, Home, eventually, free_port};

/// The supervisor did not start, said why in one line, and left nothing behind.
#[track_caller]
fn refused(home: &Home, arguments: &[&str], code: i32) -> Ended {
    let ended = home.run(home.supervisor(arguments)).expect(code);
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    let files = fs::read_dir(home.sockets()).into_iter().flatten().map(|file| file.unwrap().file_name());
    let left: Vec<_> = files.filter(|file| file.to_str().unwrap().starts_with(&format!("{}.", home.name()))).collect();
    assert!(left.is_empty(), "{left:?} was abandoned: {ended}");
    ended
}

#[test]
fn port_0_is_any_free_port_and_the_log_says_which() {
    let home = Home::new();
    let instance = home.start(&["echo", "--listen", "127.0.0.1:0"]);
    assert_ne!(instance.address.port(), 0);
    instance.assert_serves();
    assert_eq!(instance.status()["address"], instance.address.to_string());
}

#[test]
fn a_port_that_is_taken_is_refused_and_on_linux_says_by_whom() {
    let home = Home::new();
    let port = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let refused = || refused(&home, &["echo", "--listen", &port.to_string()], 1);
    refused().says(&format!("port {port} is taken"));
    if cfg!(target_os = "linux") {
        // A process that another test is just starting also has the listener, for a moment.
        let own = format!("(pid {})", std::process::id());
        eventually("it says by whom", || refused().err.contains(&own));
    }
}

#[test]
fn a_port_that_another_supervisor_has_is_refused_and_that_one_goes_on() {
    let home = Home::new();
    let other = home.start(&["echo", "--name", &home.another("other")]);
    let ended = refused(&home, &["echo", "--listen", &other.address.to_string()], 1);
    ended.says(&format!("port {} is taken", other.address.port()));
    if cfg!(target_os = "linux") {
        ended.says(&format!("(pid {})", other.pid));
    }
    other.assert_serves();
}

#[test]
fn a_port_that_another_supervisor_has_on_all_addresses_is_taken_on_each_of_them_and_the_other_way() {
    let home = Home::new();
    for addresses in [["0.0.0.0", "127.0.0.1"], ["127.0.0.1", "0.0.0.0"]] {
        let [first, second] = addresses.map(|address| move |port: u16| format!("{address}:{port}"));
        let port = free_port();
        let other = home.start(&["echo", "--name", &home.another("other"), "--listen", &first(port)]);
        refused(&home, &["echo", "--listen", &second(port)], 1).says(&format!("port {port} is taken"));
        other.admin(&["stop"]).expect(0);
    }
}

#[test]
fn an_address_of_another_machine_is_refused() {
    refused(&Home::new(), &["echo", "--listen", "192.0.2.1:8000"], 1).says("this machine has no address 192.0.2.1");
}

#[test]
fn a_directory_that_is_missing_is_refused_by_name() {
    let home = Home::new();
    let missing = home.directory().join("missing").display().to_string();
    refused(&home, &["http", &missing], 1).says(&missing);
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let home = Home::new();
    for arguments in [["echo", "--listen", "nowhere"], ["echo", "--grace", "-1"], ["echo", "--admin", "maybe"]] {
        home.run(home.supervisor(&arguments)).expect(2);
    }
    home.run(home.supervisor(&["dance"])).expect(2);
    home.run(home.supervisor(&["echo", "--name", "../x"])).expect(2);
}

#[test]
fn two_that_start_at_the_same_time_with_one_name_one_of_them_serves() {
    let home = Home::new();
    // Starting a program takes long under Wine.
    for _ in 0..if cfg!(windows) { 3 } else { 10 } {
        let starting: Vec<_> = (0..4)
            .map(|_| {
                let mut command = home.supervisor(&["echo"]);
                command.stderr(Stdio::piped());
                home.spawn(command)
            })
            .collect();
        eventually("three have given up", || starting.iter().filter(|process| !process.is_running()).count() == 3);
        let (alive, refused): (Vec<_>, Vec<_>) = starting.iter().partition(|process| process.is_running());
        for process in refused {
            process.end().expect(1).says("is taken");
        }
        alive[0].err.wait_for("listening");
        let pong = home.admin(&["--name", home.name(), "ping"]).expect(0);
        pong.says(&format!("pid {}", alive[0].pid));
        home.admin(&["--name", home.name(), "stop"]).expect(0);
        assert_eq!(alive[0].wait(), 0);
    }
}

#[cfg(unix)]
mod on_unix {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    use std::path::Path;

    use nix::sys::signal::Signal::SIGTERM;

    use super::*;
    use crate::support::Instance;

    /// It serves without an admin socket, has warned about that, and can be stopped.
    #[track_caller]
    fn serves_without_admin(instance: Instance, why: &str) {
        let mut client = instance.client();
        client.greet();
        drop(client);
        let warning = instance.err.wait_for("warning: ");
        assert!(warning.contains(why) && warning.contains("starting without it"), "{warning}");
        instance.signal(SIGTERM);
        assert_eq!(instance.process.wait(), 0);
    }

    /// Makes the directory for the sockets unusable, and returns what the log must say then.
    type Spoil = fn(&Path) -> &'static str;

    const SPOILED: [Spoil; 3] = [
        |sockets| {
            fs::create_dir(sockets).unwrap();
            fs::set_permissions(sockets, fs::Permissions::from_mode(0o755)).unwrap();
            "mode 755"
        },
        |sockets| {
            fs::write(sockets, "in its place").unwrap();
            "not a directory"
        },
        |sockets| {
            let elsewhere = sockets.with_file_name("elsewhere");
            fs::DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, sockets).unwrap();
            "not a directory"
        },
    ];

    #[test]
    fn with_a_directory_that_cannot_be_used_it_warns_and_serves() {
        for spoil in SPOILED {
            let home = Home::new();
            let why = spoil(&home.sockets());
            serves_without_admin(home.start(&["echo"]), why);
        }
    }

    #[test]
    fn with_a_directory_that_cannot_be_used_and_a_socket_required_it_does_not_start() {
        for spoil in SPOILED {
            let home = Home::new();
            let why = spoil(&home.sockets());
            let port = free_port();
            let address = format!("127.0.0.1:{port}");
            let ended = home.run(home.supervisor(&["echo", "--admin", "require", "--listen", &address]));
            assert!([1, 4].contains(&ended.code), "{ended}");
            assert_eq!(ended.err.lines().count(), 1, "{ended}");
            ended.says(why);
            TcpListener::bind(&address).expect("the port is free");
        }
    }

    #[test]
    fn without_a_runtime_directory_it_warns_and_serves() {
        let home = Home::new();
        let mut command = home.supervisor(&["echo"]);
        command.env("MASTERCONTROL_DIR", home.directory().join("missing").join("mastercontrol"));
        serves_without_admin(home.start_by(command), "missing");
    }

    #[test]
    fn with_something_that_is_no_socket_in_its_place_it_warns_and_serves() {
        let home = Home::new();
        fs::DirBuilder::new().mode(0o700).create(home.sockets()).unwrap();
        fs::create_dir(home.socket()).unwrap();
        let instance = home.start(&["echo"]);
        fs::remove_dir(home.socket()).unwrap();
        serves_without_admin(instance, home.name());
    }

    #[test]
    fn without_its_admin_socket_it_keeps_its_name_as_long_as_it_runs() {
        let home = Home::new();
        fs::DirBuilder::new().mode(0o700).create(home.sockets()).unwrap();
        fs::create_dir(home.socket()).unwrap();
        let instance = home.start(&["echo"]);
        instance.err.wait_for("starting without it");
        home.run(home.supervisor(&["command"])).expect(1).says(&format!("the name {} is taken", home.name()));
        instance.signal(SIGTERM);
        assert_eq!(instance.process.wait(), 0);
        fs::remove_dir(home.socket()).unwrap();
        home.start(&["echo", "--admin", "require"]).assert_serves();
    }

    #[test]
    fn with_a_socket_path_that_is_too_long_it_says_how_long_it_may_be() {
        let home = Home::new();
        let directory = home.directory().join("x".repeat(100));
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        let socket = directory.join("x.sock").display().to_string();
        serves_without_admin(home.start(&["echo", "--socket", &socket]), "at most 107");
        refused(&home, &["echo", "--socket", &socket, "--admin", "require"], 1).says("at most 107");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "something is left behind");
    }

    #[test]
    fn a_file_in_the_place_of_the_socket_or_of_its_lock_is_left_alone() {
        let home = Home::new();
        let directory = home.directory().join("private");
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        let (file, neighbour, target) =
            (directory.join("data.txt"), directory.join("data.lock"), directory.join("target"));
        for file in [&file, &neighbour, &target] {
            fs::write(file, "precious").unwrap();
        }
        std::os::unix::fs::symlink(&target, directory.join("linked.sock.lock")).unwrap();
        for socket in ["data.txt", "linked.sock"] {
            let socket = directory.join(socket).display().to_string();
            home.run(home.supervisor(&["echo", "--admin", "require", "--socket", &socket])).expect(1);
        }
        let socket = directory.join("data.sock").display().to_string();
        let instance = home.start(&["echo", "--socket", &socket]);
        home.admin(&["--socket", &socket, "stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        for file in [&file, &neighbour, &target] {
            assert_eq!(fs::read_to_string(file).unwrap(), "precious", "{}", file.display());
        }
    }
}
