//! Where instances are found: by their user, whatever the environment says.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use crate::support::{ADMIN_CLI, Ended, Home, Instance, SUPERVISOR, eventually, free_port};

/// An environment with these variables, and no others that could say where something is.
type Environment<'a> = &'a [(&'a str, &'a Path)];

fn program(home: &Home, program: &str, environment: Environment<'_>) -> Command {
    let mut command = home.program(program);
    command.env_remove("MASTERCONTROL_DIR").env_remove("XDG_RUNTIME_DIR").env_remove("TMPDIR").env_remove("HOME");
    command.envs(environment.iter().copied());
    command
}

fn supervisor(home: &Home, environment: Environment<'_>) -> Command {
    let mut command = program(home, SUPERVISOR, environment);
    command.args(["echo", "--name", home.name(), "--listen", &free_port().to_string(), "--admin", "require"]);
    command
}

fn start(home: &Home, environment: Environment<'_>) -> Instance {
    let mut command = supervisor(home, environment);
    command.stderr(Stdio::piped());
    home.start_by(command)
}

fn admin(home: &Home, environment: Environment<'_>, arguments: &[&str]) -> Ended {
    let mut command = program(home, ADMIN_CLI, environment);
    command.args(["--name", home.name()]).args(arguments);
    home.run(command)
}

/// The directory with the locks of this user.
fn locks() -> PathBuf {
    let user = geteuid();
    if user.is_root() { "/run/mastercontrol".into() } else { format!("/tmp/mastercontrol-{user}").into() }
}

/// The files of this instance among the locks.
fn left(home: &Home) -> Vec<PathBuf> {
    let files = fs::read_dir(locks()).into_iter().flatten().map(|file| file.unwrap().path());
    files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(home.name())).collect()
}

fn directory(home: &Home, name: &str) -> PathBuf {
    let directory = home.directory().join(name);
    fs::create_dir(&directory).unwrap();
    directory
}

#[test]
fn cron_sudo_and_a_login_shell_find_each_others_instances_and_take_no_name_twice() {
    let home = Home::new();
    let [runtime, temporary, own] = ["runtime", "temporary", "home"].map(|name| directory(&home, name));
    let environments: [Environment<'_>; 5] = [
        &[],
        &[("XDG_RUNTIME_DIR", &runtime)],
        &[("TMPDIR", &temporary), ("HOME", &own)],
        &[("XDG_RUNTIME_DIR", Path::new("/no/such/directory"))],
        &[("TMPDIR", Path::new(""))],
    ];
    for started_in in environments {
        let instance = start(&home, started_in);
        for asked_in in environments {
            admin(&home, asked_in, &["ping"]).expect(0).says(&format!("pid {}", instance.pid));
            let mut list = program(&home, ADMIN_CLI, asked_in);
            list.arg("list");
            assert!(home.run(list).expect(0).out.contains(home.name()));
            let second = home.run(supervisor(&home, asked_in)).expect(1);
            second.says(&format!("the name {} is taken by echo on ", home.name()));
            second.says(&format!("pid {}", instance.pid));
        }
        admin(&home, &[], &["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        assert_eq!(left(&home), Vec::<PathBuf>::new());
    }
    for directory in [runtime.join("mastercontrol"), temporary.join(format!("mastercontrol-{}", geteuid()))] {
        let left = fs::read_dir(directory).into_iter().flatten().count();
        assert_eq!(left, 0, "a socket is left behind");
    }
}

#[test]
fn the_socket_is_in_the_runtime_directory_for_its_user_alone() {
    let home = Home::new();
    let runtime = directory(&home, "runtime");
    let _instance = start(&home, &[("XDG_RUNTIME_DIR", &runtime)]);
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
    let socket = runtime.join("mastercontrol").join(format!("{}.sock", home.name()));
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!((mode(&socket), mode(socket.parent().unwrap()), mode(&locks())), (0o600, 0o700, 0o700));
}

/// As with `sudo -E`.
#[test]
fn in_the_runtime_directory_of_another_user_nothing_is_made() {
    if !geteuid().is_root() {
        return eprintln!("skipped: only root can give a directory away");
    }
    let home = Home::new();
    let theirs = directory(&home, "theirs");
    chown(&theirs, Some(65534), Some(65534)).unwrap();
    let instance = start(&home, &[("XDG_RUNTIME_DIR", &theirs)]);
    admin(&home, &[], &["ping"]).expect(0);
    admin(&home, &[("XDG_RUNTIME_DIR", &theirs)], &["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0, "something was made there");
}

/// As with `sudo -E`, too.
#[test]
fn in_a_directory_of_another_user_root_does_not_make_the_directory_that_the_environment_names() {
    if !geteuid().is_root() {
        return eprintln!("skipped: only root can give a directory away");
    }
    let home = Home::new();
    let theirs = directory(&home, "theirs");
    chown(&theirs, Some(65534), Some(65534)).unwrap();
    let own = theirs.join("mastercontrol");
    let environment: Environment<'_> = &[("MASTERCONTROL_DIR", &own)];
    let refused = home.run(supervisor(&home, environment)).expect(4);
    refused.says(&own.display().to_string()).says("directory of user 65534").says("unset MASTERCONTROL_DIR");
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0, "something was made there");
    // One that was made for this counts.
    fs::DirBuilder::new().mode(0o700).create(&own).unwrap();
    let instance = start(&home, environment);
    admin(&home, environment, &["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn it_is_found_after_a_logout_which_takes_the_runtime_directory_away() {
    let home = Home::new();
    let runtime = directory(&home, "runtime");
    let environment: Environment<'_> = &[("XDG_RUNTIME_DIR", &runtime)];
    let instance = start(&home, environment);
    eventually("the directory is gone", || fs::remove_dir_all(&runtime).is_ok() || !runtime.exists());
    instance.err.wait_for("has been restored");
    for environment in [environment, &[]] {
        eventually("it answers", || admin(&home, environment, &["ping"]).code == 0);
        home.run(supervisor(&home, environment)).expect(1).says("is taken");
    }
    admin(&home, &[], &["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_eq!(left(&home), Vec::<PathBuf>::new());
}

#[test]
fn what_one_that_was_killed_has_left_is_removed_in_all_places() {
    let home = Home::new();
    let runtime = directory(&home, "runtime");
    let environment: Environment<'_> = &[("XDG_RUNTIME_DIR", &runtime)];
    let socket = runtime.join("mastercontrol").join(format!("{}.sock", home.name()));
    start(&home, environment).kill();
    assert!(socket.exists(), "there is no leftover, so this test does not test anything");
    // Removed by a supervisor that is started elsewhere.
    let instance = start(&home, &[]);
    assert!(!socket.exists());
    admin(&home, environment, &["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    // Removed by hand. (The list may have others in it, so only this one is checked.)
    start(&home, environment).kill();
    let mut list = program(&home, ADMIN_CLI, &[]);
    list.args(["list", "--clean"]);
    home.run(list).says(&format!("removed the stale socket of {}", home.name()));
    assert!(!socket.exists());
    assert_eq!(left(&home), Vec::<PathBuf>::new());
}
