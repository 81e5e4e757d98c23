//! `admin-cli top` on a terminal whose screen can be read: that of tmux.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGTERM;

use crate::support::{ADMIN_CLI, HUGE, Home, eventually, is_installed};

/// How long anything may take to be shown.
const LIMIT: Duration = Duration::from_secs(60);

/// A terminal of 80 columns and 24 lines with a shell. It is removed afterwards.
struct Tmux {
    home: Home,
}

impl Tmux {
    fn start(home: &Home) -> Tmux {
        let tmux = Tmux { home: home.clone() };
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh"]);
        tmux
    }

    fn command(&self) -> Command {
        let mut command = self.home.program("tmux");
        command.arg("-S").arg(self.home.directory().join("tmux")).env("PS1", "$ ").env("LANG", "C.UTF-8");
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env("TERM", "xterm-256color");
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.args(arguments);
        self.home.run(command).expect(0).out
    }

    /// Presses keys, as tmux names them.
    fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    #[track_caller]
    fn wait_for(&self, part: &str) {
        let (mut screen, end) = (self.screen(), Instant::now() + LIMIT);
        while !screen.contains(part) {
            assert!(Instant::now() < end, "it never says {part:?}:\n{screen}");
            thread::sleep(Duration::from_millis(20));
            screen = self.screen();
        }
    }

    /// Starts `top`, with a mark on the screen that must be there again afterwards.
    fn top(&self, target: &str) {
        self.press(&[&format!("echo be''fore; {ADMIN_CLI} {target} top; echo ended $?"), "Enter"]);
        self.wait_for("q quit");
    }

    /// The terminal belongs to the shell again: its screen and its cursor are back, and typed text is shown.
    fn assert_restored(&self, code: i32) {
        self.wait_for(&format!("ended {code}\n"));
        let screen = self.screen();
        assert!(screen.contains("before\n") && !screen.contains("q quit"), "{screen}");
        assert_eq!(self.run(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]), "0 1\n");
        self.press(&["echo sh''own", "Enter"]);
        self.wait_for("\nshown\n");
        assert!(self.screen().contains("echo sh''own"), "{}", self.screen());
    }

    /// The process id of `top`.
    fn pid(&self) -> i32 {
        let processes = self.home.processes();
        let is_it = |line: &str| line.contains("admin-cli") && line.ends_with("top");
        let found: Vec<_> = processes.iter().filter(|(_, line)| is_it(line.trim())).collect();
        assert_eq!(found.len(), 1, "{processes:?}");
        i32::try_from(found[0].0).unwrap()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = self.command();
        command.arg("kill-server");
        let _ = command.output();
    }
}

#[test]
fn top_sorts_closes_a_connection_restarts_and_gives_the_terminal_back() {
    if !is_installed("tmux") {
        return;
    }
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut clients = [(); 3].map(|()| instance.client());
    clients.iter_mut().for_each(crate::support::Client::greet);
    let tmux = Tmux::start(&home);
    tmux.top(&format!("--name {}", home.name()));
    tmux.wait_for("3 connected, 3 in all");
    tmux.wait_for("what holds up a drain first");
    tmux.wait_for("listening on ");
    tmux.press(&["o"]);
    tmux.wait_for("Connections, oldest first");
    // The oldest connection is selected. Nothing is closed before that is confirmed.
    tmux.press(&["k"]);
    tmux.wait_for("and close it?  y: yes");
    tmux.press(&["n"]);
    tmux.wait_for("k close");
    tmux.press(&["k", "y"]);
    let [mut first, mut second, third] = clients;
    first.assert_told();
    drop(first);
    tmux.wait_for("connection 1 disconnected");
    second.greet();
    // Its clients stay connected, so the old generation drains.
    tmux.press(&["r"]);
    tmux.wait_for(&format!("Restart the server of {}?", home.name()));
    tmux.press(&["y"]);
    // With its bar: the event has the same words, and may appear before.
    tmux.wait_for(" s to go █");
    tmux.press(&["+", "y"]);
    tmux.wait_for("generation 1 draining, requested by ");
    second.assert_told();
    drop((second, third));
    tmux.wait_for("restarted: generation 2 is serving");
    // It follows the size of the terminal.
    tmux.run(&["resize-window", "-x", "100", "-y", "12"]);
    tmux.wait_for("0 connected, 3 in all");
    tmux.run(&["resize-window", "-x", "80", "-y", "24"]);
    tmux.press(&["q"]);
    tmux.assert_restored(0);
    instance.assert_serves();
}

#[test]
fn top_gives_the_terminal_back_when_it_is_asked_to_end_and_says_that_a_supervisor_is_gone() {
    if !is_installed("tmux") {
        return;
    }
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let tmux = Tmux::start(&home);
    tmux.top("");
    tmux.wait_for("0 connected");
    tmux.press(&["s", "y"]);
    assert_eq!(instance.wait(), 0);
    tmux.wait_for("it is not running any more");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(tmux.pid()), SIGTERM).unwrap();
    tmux.assert_restored(0);
    // Ctrl-C arrives as a key.
    let instance = home.start(&["echo"]);
    tmux.top("");
    tmux.wait_for("0 connected");
    tmux.press(&["C-c"]);
    eventually("it has ended again", || tmux.screen().matches("ended 0\n").count() == 2);
    instance.assert_serves();
}

#[test]
fn of_several_supervisors_top_shows_a_list_first() {
    if !is_installed("tmux") {
        return;
    }
    let home = Home::new();
    let _one = home.start(&["echo"]);
    let other = home.another("b");
    let _other = home.start(&["command", "--name", &other]);
    let tmux = Tmux::start(&home);
    tmux.top("");
    tmux.wait_for(&other);
    tmux.press(&["Down", "Enter"]);
    tmux.wait_for(&format!(" {other}  command  serving, ready"));
    tmux.press(&["Escape"]);
    tmux.wait_for("Supervisors of this user");
    tmux.press(&["q"]);
    tmux.assert_restored(0);
}

/// Not `top`, but on the same kind of terminal.
#[test]
fn stop_shows_clients_and_time_as_bars_that_fit() {
    if !is_installed("tmux") {
        return;
    }
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut clients = [(); 3].map(|()| instance.client());
    clients.iter_mut().for_each(crate::support::Client::greet);
    let tmux = Tmux::start(&home);
    tmux.press(&[&format!("{ADMIN_CLI} stop"), "Enter"]);
    tmux.wait_for("3 clients still connected ██████████, ");
    tmux.wait_for(" s to go ██████████");
    let [first, second, third] = clients;
    drop(first);
    tmux.wait_for("2 clients still connected ███████░░░, ");
    let screen = tmux.screen();
    let line = screen.lines().find(|line| line.contains("still connected")).unwrap();
    assert!(line.chars().count() <= 80 && line.trim_end().ends_with('…'), "{line:?}");
    drop((second, third));
    assert_eq!(instance.wait(), 0);
    tmux.wait_for("stopped in ");
}

#[test]
fn without_a_terminal_top_names_what_prints_the_same() {
    let home = Home::new();
    let _instance = home.start(&["echo"]);
    home.admin(&["top"]).expect(2).says("top needs a terminal; `status`, `connections` and `events --follow`");
    home.admin(&["top", "--json"]).expect(2).says("`status --json`");
    home.admin(&["top", "--all"]).expect(2);
}
